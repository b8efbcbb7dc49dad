"""The switch's end of a cable.

This file is a part of the switch's script: it needs only the standard library.
"""

from __future__ import annotations

import socket
from collections import deque
from itertools import islice
from typing import Any

from pytest_xhyve.lan.frames import ETHERNET_HEADER, HEADER, LENGTH, MAX_FRAME

_READ_BYTES = 1 << 18
_MAX_QUEUED = 1 << 20
_MAX_PIECES = 512


class Port:
    """The switch's end of one cable.

    Attributes:
        name: the guest's name.
        received, sent: frames.
        too_short: frames that are shorter than an Ethernet header, and went nowhere.
        overflowed: frames that the guest did not read in time.
        broken: why the cable was cut; empty if it was not.
        waits: whether frames wait until the guest reads.
    """

    def __init__(self, name: str, end: socket.socket) -> None:
        self.name = name
        self.end = end
        self.received = self.sent = self.too_short = self.overflowed = 0
        self.broken = ""
        self.waits = False
        self._unread = b""
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._begun = 0
        end.setblocking(False)

    def read(self) -> list[bytes]:
        """The frames that have arrived, each behind its length.

        Raises:
            EOFError: the cable is closed, or what comes from it are no frames.
        """
        try:
            data = self.end.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        data = self._unread + data
        frames = []
        at, available = 0, len(data)
        while available - at >= HEADER:
            (length,) = LENGTH.unpack_from(data, at)
            if length > MAX_FRAME:
                self.broken = f"it sent a frame of {length} bytes"
                raise EOFError
            end = at + HEADER + length
            if end > available:
                break
            self.received += 1
            if length < ETHERNET_HEADER:
                self.too_short += 1
            else:
                frames.append(data[at:end])
            at = end
        self._unread = data[at:]
        return frames

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
