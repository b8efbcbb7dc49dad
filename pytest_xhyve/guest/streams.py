"""The streams of a command in a guest, as files."""

from __future__ import annotations

import io
import select
import time
from typing import TYPE_CHECKING

import paramiko

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.text import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from pytest_xhyve.guest.commands import Connection

_CHUNK = 1 << 17
_LOOK_SECONDS = 0.25
_MESSAGES = 1 << 14
_MAX_MESSAGES = 16 << 20
# GNU tar fills its last record, of at most 1 MiB, with zeros.
_MAX_REST = 1 << 20


class Input:
    """A command's standard input; paramiko's own file writes its rest again when it is garbage collected."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> int:
        self._channel.sendall(data)
        return len(data)


class Output(io.RawIOBase):
    """A command's standard output. Of standard error, the last part is kept.

    Args:
        connection: to the guest.
        channel: the command's.
    """

    def __init__(self, connection: Connection, channel: paramiko.Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._messages = b""
        self._messages_left = _MAX_MESSAGES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._receive(len(view))
        view[: len(data)] = data
        return len(data)

    def read_rest(self) -> bool:
        """Read and ignore the rest; return whether its end was reached within 1 MiB."""
        rest = _MAX_REST
        while rest > 0 and (data := self._receive(_CHUNK)):
            rest -= len(data)
        return rest > 0

    def result(self) -> tuple[int, str]:
        """The command's exit code and its messages. The code is -1 if it has none.

        Raises:
            BootFailed: the command has no exit code since the guest has died.
            XhyveError: the command does not end.
        """
        if not self.read_rest():
            raise XhyveError("the guest sends data without end")
        end = time.monotonic() + self._connection.step
        while not self._channel.exit_status_ready() and not self._channel.closed and time.monotonic() < end:
            self._channel.status_event.wait(_LOOK_SECONDS)
            self._connection.check_alive()
        code = self._channel.recv_exit_status() if self._channel.exit_status_ready() else -1
        if code == -1 and not self._connection.transport.is_active():
            self._connection.explain_loss()
        return code, printable(self._messages.decode(errors="surrogateescape").strip())

    def _receive(self, most: int) -> bytes:
        """Some bytes of standard output; none at its end.

        Raises:
            TimeoutError: the guest was silent.
            XhyveError: standard error has no end.
        """
        channel = self._channel
        descriptor = channel.fileno()
        end = time.monotonic() + self._connection.step
        while True:
            # Asked before reading: what arrives afterwards is read in the next round.
            over = channel.eof_received or channel.closed
            got = False
            while channel.recv_stderr_ready():
                # Both streams share a window: if one of them is not read, the other one stops.
                data = channel.recv_stderr(_CHUNK)
                self._messages = (self._messages + data)[-_MESSAGES:]
                self._messages_left -= len(data)
                if self._messages_left < 0:
                    raise XhyveError("the guest sends messages without end")
                got = True
            if channel.recv_ready():
                return channel.recv(most)
            if got:
                continue
            if over:
                return b""
            if not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
                self._connection.check_alive()
                if time.monotonic() > end:
                    raise TimeoutError
