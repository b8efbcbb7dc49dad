"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def becomes(condition: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether *condition* comes true within *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def has_its_command_line(pid: int) -> bool:
    """Whether process *pid* can be found by its command line, which takes a moment after Popen has returned.

    execve(2) closes descriptors, which is what Popen waits for, before the kernel knows the new command line.
    """
    return becomes(lambda: bool(Path(f"/proc/{pid}/cmdline").read_bytes()))
