"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def becomes(condition: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether *condition* comes true within *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
