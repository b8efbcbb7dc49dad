"""Locks between processes. The wait for each has a limit, and its error states what was waited for."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.values import format_seconds

SHORT_SECONDS = 60.0
"""For a lock that is held while a small file is read or written."""

LONG_SECONDS = 7200.0
"""For a lock that is held while an image is built, prepared, pulled or read as a whole."""

QUIET_SECONDS = 2.0
"""A wait is reported once it has taken this long."""

_LOOK_SECONDS = 0.01


@contextmanager
def locked(
    path: Path,
    work: str,
    timeout: float = LONG_SECONDS,
    report: Callable[[str], None] = lambda _: None,
    error: type[XhyveError] = XhyveError,
) -> Iterator[None]:
    """Hold the lock of the file at *path* for the block.

    Args:
        path: the file; it is created if it is missing.
        work: what the process does that holds the lock, such as ``builds tiny``; for messages.
        timeout: the limit of the wait in seconds.
        report: called with a line if this has waited for some seconds.
        error: the class of the error.

    Raises:
        XhyveError: another process held it for too long.
    """
    lock = FileLock(path, timeout=timeout)
    begin = monotonic()
    try:
        lock.acquire(timeout=min(timeout, QUIET_SECONDS))
    except Timeout:
        report(f"waiting for another process, which {work}, {format_seconds(monotonic() - begin)} so far")
        try:
            lock.acquire(timeout=timeout)
        except Timeout as late:
            raise error(
                f"waited {timeout:g} s for another process, which {work} and holds {path}\n"
                "  see what it does, or end it; `fuser` names the process"
            ) from late
    try:
        yield
    finally:
        lock.release()


def take_lock(fd: int, operation: int = fcntl.LOCK_EX) -> bool:
    """Like flock(2), but do not wait; return whether the lock is taken.

    It belongs to the open file: a process with a duplicate of *fd* holds it, too, until the last one is closed.
    """
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except OSError as error:
        # A file system of the network may emulate it by fcntl(2).
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def wait_for_lock(fd: int, operation: int, timeout: float, look: float = _LOOK_SECONDS) -> bool:
    """Like `take_lock`, but wait up to *timeout* seconds, and look each *look* seconds."""
    end = monotonic() + timeout
    while not take_lock(fd, operation):
        if monotonic() > end:
            return False
        time.sleep(look)
    return True


def flock_within(fd: int, operation: int, timeout: float = SHORT_SECONDS) -> None:
    """Like flock(2), but wait at most *timeout* seconds.

    Raises:
        XhyveError: another process held the lock for longer.
    """
    if not wait_for_lock(fd, operation, timeout):
        raise XhyveError(f"another process has held a lock in the cache folder for {timeout:g} s")
