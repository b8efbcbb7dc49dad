"""The clock of every wait."""

from __future__ import annotations

import time
from collections.abc import Callable


def monotonic() -> float:
    """Seconds on a clock that a test cannot stop: freezegun and time-machine replace `time.monotonic`, but not this."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def stop_at(end: float) -> Callable[[object], bool]:
    """A stop condition for tenacity, whose own use `time.monotonic`: stop at *end*, as `monotonic` counts."""
    return lambda _: monotonic() >= end
