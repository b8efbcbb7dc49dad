"""What is measured, and how several of it are summed up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Boot:
    """One guest, from the request to its end; all in seconds.

    Attributes:
        ready: from the request to the first command's output.
        teardown: from then until all of it was gone.
        phases: parts of `ready`, where they are known, in their order.
        inside: what the guest itself tells of its boot, likewise.
    """

    ready: float
    teardown: float
    phases: Mapping[str, float] = field(default_factory=dict)
    inside: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """Several measurements of the same."""

    median: float
    best: float
    worst: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


class Clock:
    """A stopwatch that runs from its making."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, or since the start."""
        last, self._last = self._last, time.perf_counter()
        return self._last - last
