"""Messages over two pipes: each has its length before it, in four bytes."""

from __future__ import annotations

import os
import select
import struct

from pytest_xhyve.model.errors import XhyveError

_MOST_BYTES = 1 << 24
_LENGTH = struct.Struct(">I")


class Disconnected(XhyveError):
    """The other end is gone or silent, or sends something else than messages; the message states which."""


class PipeWire:
    """Messages over pipes.

    Args:
        reading: the descriptor to read from.
        writing: the descriptor to write to.
        seconds: the longest wait for a message, and for room to write.
    """

    def __init__(self, reading: int, writing: int, seconds: float) -> None:
        self._reading = reading
        self._writing = writing
        self._seconds = seconds
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(reading, select.POLLIN)
        self._writable.register(writing, select.POLLOUT)

    def send(self, message: bytes) -> None:
        """Send *message*.

        Raises:
            Disconnected: it cannot be sent.
        """
        data = memoryview(_LENGTH.pack(len(message)) + message)
        try:
            while data:
                self._wait(self._writable)
                # So much never blocks where poll(2) finds room (pipe(7), PIPE_BUF).
                data = data[os.write(self._writing, data[: select.PIPE_BUF]) :]
        except BrokenPipeError as error:
            raise Disconnected("it has ended the connection") from error

    def receive(self) -> bytes:
        """The next message.

        Raises:
            Disconnected: none came.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > _MOST_BYTES:
            raise Disconnected("it sent something else than messages")
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            self._wait(self._readable)
            piece = os.read(self._reading, min(size, 1 << 16))
            if not piece:
                raise Disconnected("it has ended the connection")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _wait(self, poll: select.poll) -> None:
        if not poll.poll(self._seconds * 1000):
            raise Disconnected(f"it was silent for {self._seconds:g} s")
