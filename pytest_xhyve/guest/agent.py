"""The agent: a program of 318 bytes, which makes system calls in a guest for the plugin.

A restored guest needs its own identity before its programs run on. Over SSH, this would take longer than the restore,
and the SSH server would already have drawn random numbers. So a process waits at the second serial port of the saved
guest: it reads system calls, makes them, and answers with their results. A guest that booted gets it over SSH, for
system calls that few of its programs make. Only the plugin knows what the calls mean, so the program needs no shell,
library or interpreter, which a guest may lack. It runs on every Linux for x86-64 (syscall(2), elf(5)).
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

from pytest_xhyve.model.clock import monotonic

_CODE_AT = 0x400000
_BUFFER = 0x500000
_BUFFER_SIZE = 1 << 16
_CALL = struct.Struct("<q6Q")
_LENGTH = struct.Struct("<Q")
_END = struct.pack("<q", -1)
_WRITE, _STDOUT = 1, 1
_MARK_BYTES = 16
_MAX_SKIPPED = 1 << 20
# The kernel's MAX_ERRNO (include/linux/err.h in Linux).
_MAX_ERRNO = 4095
_CHUNK = 1 << 16

# The machine code of tests/unit/guest/agent.S; a test compares the two.
_CODE = bytes.fromhex(
    # message: read the length, then that many bytes
    "41bc00005000 41bd08000000 e85b000000 448b2c2500005000 e84e000000 41bc08005000"
    # call: a negative number ends the list
    "498b0424 4885c0 782a 498b7c2408 498b742410 498b542418 4d8b542420 4d8b442428 4d8b4c2430 0f05"
    # the result replaces the number
    "49890424 4983c438 ebcd"
    # answer: write all results to standard output, then read the next message
    "b801000000 89c7 be08005000 4489e2 29f2 0f05 eb94"
    # fill: read r13 bytes to the address in r12
    "31c0 31ff 4c89e6 4489ea 0f05 85c0 7e09 4901c4 4129c5 75e8 c3"
    # leave: exit when the port is closed
    "89c7 b83c000000 0f05"
)


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


def build_program() -> bytes:
    """The agent as an executable file: ELF header, headers of a code and a memory segment, and the code (elf(5))."""
    headers = 64 + 2 * 56
    size = headers + len(_CODE)
    # ELFCLASS64, ELFDATA2LSB, EV_CURRENT; ET_EXEC for EM_X86_64.
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _CODE_AT + headers, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    code = struct.pack("<IIQQQQQQ", 1, 0b101, 0, _CODE_AT, _CODE_AT, size, size, 0x1000)
    memory = struct.pack("<IIQQQQQQ", 1, 0b110, 0, _BUFFER, _BUFFER, 0, _BUFFER_SIZE, 0x1000)
    return start + code + memory + _CODE


class AgentError(Exception):
    """The agent does not answer."""


Argument = int | bytes | Callable[[int], bytes]
"""A number, or data, to which the call gets a pointer; a function makes the data, from the address that it will have.

The function always returns the same number of bytes. With the address, a structure can point into itself.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: its number on x86-64, and its arguments."""

    number: int
    arguments: tuple[Argument, ...]


def call(number: int, *arguments: Argument) -> Call:
    """A `Call` of *number* with *arguments*."""
    return Call(number, arguments)


def execute_over_ssh(run_as_root: RunAsRoot, calls: Sequence[Call], open_files: Sequence[str] = ()) -> list[int]:
    """Make *calls* in a running guest, in their order, by an agent that ends afterwards.

    Args:
        run_as_root: runs a shell line in the guest.
        calls: the system calls.
        open_files: files that the agent holds open for reading: the first as descriptor 3, and so on, up to 9.

    Returns:
        the result of each call; a negative one is an error number (errno(3)).

    Raises:
        AgentError: the agent did not answer.
    """
    path = shlex.quote(run_as_root(PLACE_PROGRAM + 'echo "$found"', build_program()).strip())
    opened = " ".join(f"{fd}<{shlex.quote(file)}" for fd, file in enumerate(open_files, 3))
    answer = os.fsencode(run_as_root(f"{path} {opened}; rm -f {path}", _message(calls)))
    if len(answer) != _CALL.size * len(calls):
        raise AgentError(f"the agent in the guest sent {len(answer)} bytes instead of {_CALL.size * len(calls)}")
    return _results(answer)


class Agent:
    """The host's side of the agent.

    Args:
        channel: the host's end of the guest's second serial port; the caller closes it.
        timeout: the limit of an answer, in seconds.
    """

    def __init__(self, channel: socket.socket, timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout

    def execute(self, *calls: Call) -> list[int]:
        """Make *calls* in the guest, in their order.

        Returns:
            the result of each call; a negative one is an error number (errno(3)).

        Raises:
            AgentError: the agent does not answer.
        """
        return _results(self._exchange(_message(calls), _CALL.size * len(calls)))

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
            end = self._send(_message([call(_WRITE, _STDOUT, mark, len(mark))]))
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


def _message(calls: Sequence[Call]) -> bytes:
    """The message that lets the agent make *calls*: its length, a record for each call, and their data."""
    data_at = _LENGTH.size + _CALL.size * len(calls) + len(_END)
    records, data = b"", b""
    for each in calls:
        arguments = []
        for argument in each.arguments:
            if isinstance(argument, int):
                arguments.append(argument & (1 << 64) - 1)
                continue
            address = _BUFFER + data_at + len(data)
            content = argument if isinstance(argument, bytes) else argument(address)
            arguments.append(address)
            data += content.ljust(-(-len(content) // 8) * 8, b"\0")
        records += _CALL.pack(each.number, *arguments, *[0] * (6 - len(arguments)))
    body = records + _END + data
    assert data_at + len(data) <= _BUFFER_SIZE
    return _LENGTH.pack(len(body)) + body


def _results(answer: bytes) -> list[int]:
    """The results of calls, which replace their numbers in the records."""
    results: list[Any] = [number for number, *_ in _CALL.iter_unpack(answer)]
    if any(result < -_MAX_ERRNO for result in results):
        raise AgentError("the agent in the guest sent a result that no system call has")
    return results
