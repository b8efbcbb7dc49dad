"""What the switch does to frames on their way from one guest to another.

This file is a part of the switch's script: it needs only the standard library.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

from pytest_xhyve.lan.frames import ETHERNET_HEADER, HEADER

_MAX_QUEUED_SECONDS = 1.0
_MAX_WAITING_BYTES = 64 << 20
# Of a frame that waits, beside its content: a `_Waiting`, its numbers, the place in the heap.
_WAITING_BYTES = 256


class Link:
    """The way of frames from one guest to another.

    Args:
        seed: makes the same frames get lost, doubled or damaged each time.
        impairment: see `pytest_xhyve.model.link.Impairment`; None for a way that only can be blocked.
    """

    def __init__(self, seed: str, impairment: Mapping[str, Any] | None = None) -> None:
        values = impairment or {}
        self.is_blocked = False
        self.is_impaired = impairment is not None
        self.stated: dict[str, Any] = {"impairment": None, "seed": ""}
        """What the plugin has asked for."""
        self._random = Random(seed)  # noqa: S311
        self._latency: float = values.get("latency", 0.0)
        self._jitter: float = values.get("jitter", 0.0)
        self._loss: float = values.get("loss", 0.0)
        self._duplicate: float = values.get("duplicate", 0.0)
        self._reorder: float = values.get("reorder", 0.0)
        self._corrupt: float = values.get("corrupt", 0.0)
        self._rate: float | None = values.get("rate")
        self._free_at = self._last_at = 0.0

    def arrivals(self, frame: bytes, now: float) -> Iterator[tuple[float, bytes]]:
        """When *frame* arrives, and how it looks then; nothing if it is lost.

        Args:
            frame: the frame, behind its length.
            now: the present time, in seconds.
        """
        if self.is_blocked:
            return
        if not self.is_impaired:
            yield now, frame
            return
        # Always the same number of random numbers, so that a frame's fate does not depend on that of others.
        lost, doubled, overtakes, damaged, late, bit = (self._random.random() for _ in range(6))
        if lost < self._loss:
            return
        sent = now
        if self._rate is not None:
            begun = max(now, self._free_at)
            if begun - now > _MAX_QUEUED_SECONDS:
                return
            sent = self._free_at = begun + (len(frame) - HEADER) * 8 / self._rate
        at = sent
        if overtakes >= self._reorder:
            # Jitter alone changes no order, as on a line.
            at = self._last_at = max(self._last_at, sent + self._latency + (2 * late - 1) * self._jitter)
        if damaged < self._corrupt:
            frame = _with_wrong_bit(frame, bit)
        yield at, frame
        if doubled < self._duplicate:
            yield at, frame


def _with_wrong_bit(frame: bytes, place: float) -> bytes:
    """*frame* with one wrong bit behind its Ethernet header, if there is something."""
    first = HEADER + ETHERNET_HEADER
    if len(frame) <= first:
        return frame
    number = int(place * (len(frame) - first) * 8)
    damaged = bytearray(frame)
    damaged[first + number // 8] ^= 1 << number % 8
    return bytes(damaged)


class _Waiting(NamedTuple):
    at: float
    number: int
    source: str
    target: str
    frame: bytes


class Links:
    """All ways between the guests of a LAN of which a test has changed something, and the frames that wait on them.

    Args:
        max_bytes: the memory that the frames that wait may take; others are lost.
    """

    def __init__(self, max_bytes: int = _MAX_WAITING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._links: dict[tuple[str, str], Link] = {}
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._links)

    def impair(self, source: str, target: str, impairment: Mapping[str, Any] | None, seed: str) -> None:
        """Set what happens on the way from *source* to *target*; None for nothing. A block stays."""
        before = self._links.get((source, target))
        link = Link(f"{seed}/{source}/{target}", impairment)
        link.stated = {"impairment": impairment, "seed": seed}
        link.is_blocked = before is not None and before.is_blocked
        self._set(source, target, link)

    def block(self, source: str, target: str, *, blocked: bool) -> None:
        """Block the way from *source* to *target*, or open it."""
        link = self._links.get((source, target)) or Link("")
        link.is_blocked = blocked
        self._set(source, target, link)

    def state(self) -> list[dict[str, Any]]:
        """What is changed on each way, as plain data: what `impair` and `block` were called with."""
        return [
            {"source": source, "target": target, "blocked": link.is_blocked, **link.stated}
            for (source, target), link in self._links.items()
        ]

    def clear(self) -> None:
        """Open all ways and end all impairments. Frames that are late still arrive."""
        self._links.clear()

    def forget(self, target: str) -> None:
        """Lose the frames that are on their way to *target*: it starts again, perhaps in an earlier state."""
        self._waiting = [waiting for waiting in self._waiting if waiting.target != target]
        heapq.heapify(self._waiting)
        self._bytes = sum(_cost(waiting.frame) for waiting in self._waiting)

    def _set(self, source: str, target: str, link: Link) -> None:
        if link.is_blocked or link.is_impaired:
            self._links[source, target] = link
        else:
            self._links.pop((source, target), None)

    def send(self, source: str, target: str, frame: bytes, now: float, deliver: Callable[[bytes], None]) -> None:
        """Send *frame* from *source* to *target*: *deliver* it now, or let it wait."""
        link = self._links.get((source, target))
        if link is None:
            deliver(frame)
            return
        for at, arriving in link.arrivals(frame, now):
            if at <= now:
                deliver(arriving)
            elif self._bytes < self._max_bytes:
                self._bytes += _cost(arriving)
                heapq.heappush(self._waiting, _Waiting(at, next(self._numbers), source, target, arriving))

    @property
    def has_waiting(self) -> bool:
        """Whether frames wait."""
        return bool(self._waiting)

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until the next frame that waits arrives; None if none waits."""
        return max(0.0, self._waiting[0].at - now) if self._waiting else None

    def take_arrived(self, now: float) -> Iterator[tuple[str, bytes]]:
        """The target and the content of each frame that arrives by *now*; not on a way that is blocked since."""
        while self._waiting and self._waiting[0].at <= now:
            waiting = heapq.heappop(self._waiting)
            self._bytes -= _cost(waiting.frame)
            link = self._links.get((waiting.source, waiting.target))
            if link is None or not link.is_blocked:
                yield waiting.target, waiting.frame


def _cost(frame: bytes) -> int:
    """Bytes of memory that *frame* takes while it waits."""
    return len(frame) + _WAITING_BYTES
