"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


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


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that is dead and waits for its parent to notice is none.

    The product has a function like it, which this one judges.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
