"""The agent: a program of 320 bytes at most, which makes system calls in a guest for the plugin.

A restored guest needs its own identity before its programs run on. Over SSH, this would take longer than the restore,
and the SSH server would already have drawn random numbers. So a process waits at the second serial port of the saved
guest: it reads system calls, makes them, and answers with their results. A guest that booted gets it over SSH, for
system calls that few of its programs make. Only the plugin knows what the calls mean, so the program needs no shell,
library or interpreter, which a guest may lack. It runs on every Linux for its architecture (syscall(2), elf(5)).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_xhyve.guest.agent_program import BUFFER, BUFFER_SIZE, build_program
from pytest_xhyve.guest.system_calls import SystemCall, number_of
from pytest_xhyve.model.architecture import Architecture
from pytest_xhyve.model.clock import monotonic

_CALL = struct.Struct("<q6Q")
_LENGTH = struct.Struct("<Q")
_END = struct.pack("<q", -1)
_STDOUT = 1
_MARK_BYTES = 16
_MAX_SKIPPED = 1 << 20
# The kernel's MAX_ERRNO (include/linux/err.h in Linux).
_MAX_ERRNO = 4095
_CHUNK = 1 << 16

PLACE_PROGRAM = """
umask 077
for folder in /dev/shm /run /tmp /var/tmp /root; do
    agent=$folder/.xhyve-agent-$$
    if [ -z "$from" ]; then cat >"$agent" && from=$agent; else cp "$from" "$agent"; fi 2>/dev/null || continue
    chmod 700 "$agent"
    if "$agent" </dev/null 2>/dev/null; then found=$agent; break; fi
done
[ -n "$from" ] && [ "$from" != "$found" ] && rm -f "$from"
[ -n "$found" ] || { echo "no folder found in which programs may run" >&2; exit 1; }
"""
"""Lines for a guest's shell that write standard input to a program, and set ``found`` to its path.

They run each copy with empty standard input, because a folder may be mounted noexec. File systems in memory come first:
the file is removed while it runs, which a journal would have to clean up after a power cut.
"""

RunAsRoot = Callable[[str, bytes], str]
"""Runs a shell line in the guest with these bytes as standard input, and returns its standard output."""


class AgentError(Exception):
    """The agent does not answer."""


Argument = int | bytes | Callable[[int], bytes]
"""A number, or data, to which the call gets a pointer; a function makes the data, from the address that it will have.

The function always returns the same number of bytes. With the address, a structure can point into itself.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call, and its arguments."""

    name: SystemCall
    arguments: tuple[Argument, ...]


def call(name: SystemCall, *arguments: Argument) -> Call:
    """A `Call` of *name* with *arguments*."""
    return Call(name, arguments)


def execute_over_ssh(
    run_as_root: RunAsRoot, architecture: Architecture, calls: Sequence[Call], open_files: Sequence[str] = ()
) -> list[int]:
    """Make *calls* in a running guest, in their order, by an agent that ends afterwards.

    Args:
        run_as_root: runs a shell line in the guest.
        architecture: the guest's.
        calls: the system calls.
        open_files: files that the agent holds open for reading: the first as descriptor 3, and so on, up to 9.

    Returns:
        the result of each call; a negative one is an error number (errno(3)).

    Raises:
        AgentError: the agent did not answer.
    """
    path = shlex.quote(run_as_root(PLACE_PROGRAM + 'echo "$found"', build_program(architecture)).strip())
    opened = " ".join(f"{fd}<{shlex.quote(file)}" for fd, file in enumerate(open_files, 3))
    answer = os.fsencode(run_as_root(f"{path} {opened}; rm -f {path}", _message(calls, architecture)))
    if len(answer) != _CALL.size * len(calls):
        raise AgentError(f"the agent in the guest sent {len(answer)} bytes instead of {_CALL.size * len(calls)}")
    return _results(answer)


class Agent:
    """The host's side of the agent.

    Args:
        channel: the host's end of the guest's second serial port; the caller closes it.
        architecture: the guest's.
        timeout: the limit of an answer, in seconds.
    """

    def __init__(self, channel: socket.socket, architecture: Architecture, timeout: float) -> None:
        self._channel = channel
        self._architecture = architecture
        self._timeout = timeout

    def execute(self, *calls: Call) -> list[int]:
        """Make *calls* in the guest, in their order.

        Returns:
            the result of each call; a negative one is an error number (errno(3)).

        Raises:
            AgentError: the agent does not answer.
        """
        return _results(self._exchange(_message(calls, self._architecture), _CALL.size * len(calls)))

    def synchronize(self) -> None:
        """Skip what others have written to the port, up to the agent's answer to this.

        UEFI firmware writes to every serial port. While its output is not read, the hypervisor keeps the last byte,
        and sends it once there is room.

        Raises:
            AgentError: the agent does not answer.
        """
        mark = secrets.token_bytes(_MARK_BYTES)
        received = b""
        with self._explained_errors():
            end = self._send(_message([call("write", _STDOUT, mark, len(mark))], self._architecture))
            while mark not in received:
                received += self._receive(_CHUNK, end)
                if len(received) > _MAX_SKIPPED:
                    raise AgentError(f"the guest writes to its second serial port: {received[-40:]!r}")
            self._read(_CALL.size, end, received.partition(mark)[2])

    def _exchange(self, message: bytes, size: int) -> bytes:
        with self._explained_errors():
            return self._read(size, self._send(message))

    def _send(self, message: bytes) -> float:
        """Send *message*; return when its answer has to be complete, on the monotonic clock."""
        end = monotonic() + self._timeout
        self._channel.settimeout(self._timeout)
        self._channel.sendall(message)
        return end

    def _read(self, size: int, end: float, received: bytes = b"") -> bytes:
        """The next *size* bytes, of which some were *received* already."""
        while len(received) < size:
            received += self._receive(size - len(received), end)
        return received

    def _receive(self, size: int, end: float) -> bytes:
        """At least one byte, and up to *size*, that arrive before *end*."""
        left = end - monotonic()
        if left <= 0:
            # A guest may send a byte now and then.
            raise AgentError("the agent in the guest did not answer in time")
        self._channel.settimeout(left)
        got = self._channel.recv(size)
        if not got:
            raise AgentError("the guest's second serial port was closed")
        return got

    @contextlib.contextmanager
    def _explained_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AgentError(f"the agent in the guest did not answer: {error}") from error


def _message(calls: Sequence[Call], architecture: Architecture) -> bytes:
    """The message that lets the agent make *calls*: its length, a record for each call, and their data."""
    data_at = _LENGTH.size + _CALL.size * len(calls) + len(_END)
    records, data = b"", b""
    for each in calls:
        arguments = []
        for argument in each.arguments:
            if isinstance(argument, int):
                arguments.append(argument & (1 << 64) - 1)
                continue
            address = BUFFER + data_at + len(data)
            content = argument if isinstance(argument, bytes) else argument(address)
            arguments.append(address)
            data += content.ljust(-(-len(content) // 8) * 8, b"\0")
        records += _CALL.pack(number_of(each.name, architecture), *arguments, *[0] * (6 - len(arguments)))
    body = records + _END + data
    assert data_at + len(data) <= BUFFER_SIZE
    return _LENGTH.pack(len(body)) + body


def _results(answer: bytes) -> list[int]:
    """The results of calls, which replace their numbers in the records."""
    results: list[Any] = [number for number, *_ in _CALL.iter_unpack(answer)]
    if any(result < -_MAX_ERRNO for result in results):
        raise AgentError("the agent in the guest sent a result that no system call has")
    return results
