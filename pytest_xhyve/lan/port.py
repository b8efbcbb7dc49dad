"""The switch's end of a cable.

This file is a part of the switch's script: it needs only the standard library.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from itertools import islice
from typing import Any

from pytest_xhyve.lan.frames import ETHERNET_HEADER, HEADER, LENGTH, MAX_FRAME

_READ_BYTES = 1 << 18
_MAX_QUEUED = 1 << 20
_MAX_PIECES = 512
_MAX_DATAGRAMS = 64
# On macOS, a datagram socket does not wait until its peer has read: it refuses (unix(4)). A frame may be too long, too.
_LOST = (errno.ENOBUFS, errno.EMSGSIZE)


class Port:
    """The switch's end of one cable, on whose stream socket each frame follows its length.

    Attributes:
        name: the guest's name.
        life: a socket that ends when the guest's end of the cable does, if *end* does not.
        received, sent: frames.
        too_short: frames that are shorter than an Ethernet header, and went nowhere.
        overflowed: frames that the guest did not read in time.
        broken: why the cable was cut; empty if it was not.
        waits: whether frames wait until the guest reads.
    """

    def __init__(self, name: str, end: socket.socket, life: socket.socket | None = None) -> None:
        self.name = name
        self.end = end
        self.life = life
        self.received = self.sent = self.too_short = self.overflowed = 0
        self.broken = ""
        self.waits = False
        # A new one for each read would cost more than the read.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._unread = b""
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._begun = 0
        end.setblocking(False)

    def close(self) -> None:
        """Cut the cable."""
        self.end.close()
        if self.life is not None:
            self.life.close()

    def read(self) -> list[bytes]:
        """The frames that have arrived, each behind its length.

        Raises:
            EOFError: the cable is closed, or what comes from it are no frames.
        """
        try:
            size = self.end.recv_into(self._buffer)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not size:
            raise EOFError
        data = self._unread + self._buffer[:size]
        frames = []
        at, available = 0, len(data)
        while available - at >= HEADER:
            (length,) = LENGTH.unpack_from(data, at)
            self._check(length)
            end = at + HEADER + length
            if end > available:
                break
            if self._counts(length):
                frames.append(data[at:end])
            at = end
        self._unread = data[at:]
        return frames

    def _check(self, length: int) -> None:
        """Raise `EOFError` if no frame has *length*."""
        if length > MAX_FRAME:
            self.broken = f"it sent a frame of {length} bytes"
            raise EOFError

    def _counts(self, length: int) -> bool:
        """Count a frame of *length*; return whether it is long enough to be passed on."""
        self.received += 1
        if length >= ETHERNET_HEADER:
            return True
        self.too_short += 1
        return False

    def send(self, frame: bytes) -> bool:
        """Send *frame* at once if no other waits; return whether all of it has gone. `flush` sends what has not."""
        if self._queue:
            self.queue(frame)
            return False
        try:
            sent = self.end.send(frame)
        except OSError:
            # Also if the cable is closed, which `flush` finds out.
            sent = 0
        if sent == len(frame):
            self.sent += 1
            return True
        self._queue.append(frame)
        self._queued += len(frame) - sent
        self._begun = sent
        return False

    def queue(self, frame: bytes) -> None:
        """Send *frame*, which is behind its length, at the next `flush`."""
        if self._queued > _MAX_QUEUED:
            self.overflowed += 1
            return
        self._queue.append(frame)
        self._queued += len(frame)

    def flush(self) -> bool:
        """Send what the guest takes now; return whether something is left.

        Raises:
            EOFError: the cable is closed.
        """
        queue = self._queue
        while queue:
            # A frame that was sent in part has to be completed.
            first = memoryview(queue[0])[self._begun :]
            try:
                if len(queue) == 1:
                    sent = self.end.send(first)
                else:
                    sent = self.end.sendmsg([first, *islice(queue, 1, _MAX_PIECES)])
            except BlockingIOError:
                return True
            except OSError as error:
                raise EOFError from error
            self._queued -= sent
            sent += self._begun
            while queue and sent >= len(queue[0]):
                sent -= len(queue.popleft())
                self.sent += 1
            self._begun = sent
        return False

    def counters(self) -> dict[str, Any]:
        """What the plugin may ask about."""
        return {
            "received": self.received,
            "sent": self.sent,
            "too_short": self.too_short,
            "overflowed": self.overflowed,
            "broken": self.broken,
        }


class DatagramPort(Port):
    """The switch's end of one cable, on whose datagram socket each datagram is a frame.

    Such a cable loses frames that its guest does not read in time, and does not show that the guest's end is closed.
    """

    def read(self) -> list[bytes]:
        frames = []
        for _ in range(_MAX_DATAGRAMS):
            try:
                # One byte more, which shows that a frame is longer.
                frame = self.end.recv(MAX_FRAME + 1)
            except BlockingIOError:
                break
            except OSError as error:
                raise EOFError from error
            self._check(len(frame))
            if self._counts(len(frame)):
                frames.append(LENGTH.pack(len(frame)) + frame)
        return frames

    def send(self, frame: bytes) -> bool:
        self.queue(frame)
        return False

    def flush(self) -> bool:
        queue = self._queue
        while queue:
            try:
                self.end.send(memoryview(queue[0])[HEADER:])
                self.sent += 1
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno not in _LOST:
                    raise EOFError from error
                self.overflowed += 1
            self._queued -= len(queue.popleft())
        return False


def port_of(name: str, end: socket.socket, life: socket.socket | None = None) -> Port:
    """The port of the guest *name* for a cable with the sockets *end* and *life*."""
    return (DatagramPort if end.type == socket.SOCK_DGRAM else Port)(name, end, life)
