"""A command in a guest whose streams are files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import paramiko

from pytest_xhyve.guest.connection import LOOK_SECONDS, Connection
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.text import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_CHUNK = 1 << 17
# More than the data of one packet (RFC 4253, section 6.1).
_PACKET = 1 << 15
# A copy that moves less than this in its limit stands still.
_LEAST_BYTES = 1 << 14
_MESSAGES = 1 << 14
_MAX_MESSAGES = 16 << 20
# GNU tar fills its last record, of at most 1 MiB, with zeros.
_MAX_REST = 1 << 20
_MAX_ITEMS_BYTES = 4 << 20


class _Pace:
    """Whether a stream moves: a guest that sends or takes a byte now and then could keep its caller for ever.

    Only the time in which the guest is waited for counts, not the time that the host needs.

    Args:
        limit: for how many seconds the guest may be waited for until 16 KiB have moved.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._waited = 0.0
        self._moved = 0

    def moved(self, size: int) -> None:
        """Count *size* bytes that have moved."""
        self._moved += size
        if self._moved >= _LEAST_BYTES:
            self._waited = 0.0
            self._moved = 0

    def waited(self, seconds: float) -> None:
        """Count *seconds* in which the guest was waited for.

        Raises:
            TimeoutError: they are too many for what has moved in them.
        """
        self._waited += seconds
        if self._waited > self._limit:
            raise TimeoutError


class Input:
    """A command's standard input; paramiko's own file writes its rest again when it is garbage collected.

    Args:
        connection: to the guest.
        channel: the command's.
    """

    def __init__(self, connection: Connection, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._pace = _Pace(connection.stall)

    def write(self, data: bytes) -> int:
        """Send all of *data*.

        Raises:
            TimeoutError: the guest takes it too slowly, or not at all.
        """
        at = 0
        while at < len(data):
            begin = monotonic()
            sent = self._channel.send(data[at : at + _PACKET])
            self._pace.moved(sent)
            self._pace.waited(monotonic() - begin)
            at += sent
        return len(data)


class Output(io.RawIOBase):
    """A command's standard output. Of standard error, the last part is kept.

    Args:
        connection: to the guest.
        channel: the command's.
        check: called while waiting; raises if the guest has stopped or does not answer.
    """

    def __init__(self, connection: Connection, channel: paramiko.Channel, check: Callable[[], None]) -> None:
        self._connection = connection
        self._channel = channel
        self._check = check
        self._messages = b""
        self._messages_left = _MAX_MESSAGES
        self._pace = _Pace(connection.stall)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._receive(len(view))
        view[: len(data)] = data
        return len(data)

    def read_items(self, most: int) -> list[str]:
        """The NUL-terminated items of the output: *most* at most, in 4 MiB at most."""
        data = bytearray()
        while data.count(b"\0") < most and len(data) < _MAX_ITEMS_BYTES and (chunk := self._receive(_CHUNK)):
            data += chunk
        return [os.fsdecode(bytes(item)) for item in data.split(b"\0")[:-1]][:most]

    def read_rest(self) -> bool:
        """Read and ignore the rest; return whether its end was reached within 1 MiB."""
        rest = _MAX_REST
        while rest > 0 and (data := self._receive(_CHUNK)):
            rest -= len(data)
        return rest > 0

    def result(self) -> tuple[int, str]:
        """The command's exit code and its messages. The code is -1 if it has none.

        Raises:
            EOFError: the command has no exit code since the connection was lost.
            TimeoutError: the command does not end.
            XhyveError: its output does not end.
        """
        code = self.exit_code()
        if code == -1 and not self._connection.transport.is_active():
            raise EOFError("it ended before the command did")
        return code, printable(self._messages.decode(errors="surrogateescape").strip())

    def exit_code(self) -> int:
        """The command's exit code, or -1 if it has none since the connection was lost; raises the rest as `result`."""
        if not self.read_rest():
            raise XhyveError("the guest sends data without end")
        end = monotonic() + self._connection.stall
        while not self._channel.exit_status_ready() and not self._channel.closed:
            if monotonic() > end:
                raise TimeoutError
            self._channel.status_event.wait(LOOK_SECONDS)
            self._check()
        return self._channel.recv_exit_status() if self._channel.exit_status_ready() else -1

    def _receive(self, most: int) -> bytes:
        """Some bytes of standard output; none at its end.

        Raises:
            TimeoutError: the guest answers, but the command sends nothing, or hardly anything.
            XhyveError: standard error has no end.
        """
        channel = self._channel
        descriptor = channel.fileno()
        while True:
            # Asked before reading: what arrives afterwards is read in the next round.
            over = channel.eof_received or channel.closed
            got = False
            while channel.recv_stderr_ready():
                # Both streams share a window: if one of them is not read, the other one stops.
                data = channel.recv_stderr(_CHUNK)
                self._messages = (self._messages + data)[-_MESSAGES:]
                self._messages_left -= len(data)
                self._pace.moved(len(data))
                if self._messages_left < 0:
                    raise XhyveError("the guest sends messages without end")
                got = True
            if channel.recv_ready():
                data = channel.recv(most)
                self._pace.moved(len(data))
                return data
            if got:
                continue
            if over:
                return b""
            begin = monotonic()
            if not is_readable(descriptor, LOOK_SECONDS):
                self._check()
            self._pace.waited(monotonic() - begin)


@contextmanager
def running(
    connection: Connection, line: ShellLine, what: str
) -> Iterator[tuple[paramiko.Channel, Callable[[], None]]]:
    """Run *line* while the block runs; its channel, and the check for each wait.

    Raises:
        BootFailed: the guest has stopped, so that *what* failed.
        ConnectionFailed: the guest does not answer, or the connection was lost.
        XhyveError: the guest answers, but the command does not go on.
    """
    check = connection.checker(what)
    channel = connection.begin(line.text, what, check, monotonic() + connection.stall)
    if channel is None:
        raise XhyveError(f"cannot {what}: the guest answers, but did not start the command in {connection.stall:g} s")
    try:
        with channel:
            channel.settimeout(connection.stall)
            if line.first_input:
                channel.sendall(line.first_input)
            yield channel, check
    except TimeoutError as error:
        raise XhyveError(
            f"cannot {what}: the guest answers, but sent or took hardly any data for {connection.stall:g} s"
        ) from error
    except (paramiko.SSHException, EOFError) as error:
        raise connection.lost(what, error) from error


def failure(what: str, code: int, messages: str) -> XhyveError:
    """The error for a command of *what* that failed in the guest."""
    return XhyveError(f"cannot {what}: {messages or f'the command in the guest failed with exit code {code}'}")
