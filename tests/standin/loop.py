"""The event loop: what xhyve's mevent.c is to it."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import NoReturn

Callback = Callable[[], None]


class Loop:
    """Waits for files and times, and calls back. poll(2) takes every kind of file, unlike epoll."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._files: dict[int, Callback] = {}
        self._times: list[tuple[float, int, Callback]] = []
        self._numbers = itertools.count()

    def watch(self, fd: int, callback: Callback) -> None:
        """Call whenever *fd* can be read, or is at its end."""
        self._files[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        if self._files.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> None:
        heapq.heappush(self._times, (time.monotonic() + seconds, next(self._numbers), callback))

    def run(self) -> NoReturn:
        while True:
            timeout = max(0.0, self._times[0][0] - time.monotonic()) * 1000 if self._times else None
            for fd, _ in self._poll.poll(timeout):
                if fd in self._files:  # unless a callback just before has dropped it
                    self._files[fd]()
            while self._times and self._times[0][0] <= time.monotonic():
                heapq.heappop(self._times)[2]()
