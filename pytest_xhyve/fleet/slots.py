"""Slots: numbers that fix a guest's UUID. One running guest holds a slot at a time.

A held slot is an open, locked file (flock(2)). The lock belongs to the open file, so the guardian and the hypervisor
inherit it with the descriptor. The kernel releases it when the last of these processes has ended, also after
``kill -9``. `filelock.FileLock` is not used because it does not pass on its descriptor.

All processes lock the same files, so the number of slots is also the limit of guests that run at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import UUID, uuid5

from tenacity import Retrying, retry_if_result, wait_exponential

from pytest_xhyve.model.clock import monotonic, stop_at
from pytest_xhyve.model.errors import NoFreeSlot

# A process that takes several slots holds this lock meanwhile, so that two processes do not each get a part.
_SEVERAL = "desk.lock"
_NAMESPACE = UUID("7b1f3f8e-3c43-4b5c-9d2a-6f1d8a0c9e57")


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that this process holds.

    Attributes:
        number: from 0.
        owner: the user id and the folder of the slots, as ``UID:FOLDER``; slots of two users never share a UUID.
        fd: the locked descriptor; a process that has it, or a duplicate, holds the slot.
    """

    number: int
    owner: str
    fd: int

    def uuids(self) -> Iterator[UUID]:
        """UUIDs that no other slot has, the same ones on every run; the first is used where nothing speaks against it.

        Some hypervisors refuse some UUIDs, for good.
        """
        yield uuid5(_NAMESPACE, f"{self.owner}:{self.number}")
        for again in count(1):
            yield uuid5(_NAMESPACE, f"{self.owner}:{self.number}:{again}")


class Slots:
    """The slots in *folder*, of which up to *limit* may be held at once."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def acquire(self, count: int, *, timeout: float, cannot_succeed: Callable[[], bool]) -> list[Slot]:
        """Wait until *count* slots are free, then hold the lowest ones, all in one step.

        If two processes each held some slots and waited for more, they could wait for each other.

        Args:
            count: number of slots.
            timeout: seconds to wait.
            cannot_succeed: called while waiting; True if waiting is useless, as this process itself holds too many.

        Raises:
            NoFreeSlot: *count* slots did not become free in time.
        """
        start = monotonic()
        waiting = Retrying(
            retry=retry_if_result(lambda slots: slots is None and not cannot_succeed()),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            stop=stop_at(start + timeout),
            retry_error_callback=lambda _: None,
        )
        slots: list[Slot] | None = waiting(self._try_acquire if count == 1 else self._try_acquire_alone, count)
        if slots is None:
            wanted = "no free slot" if count == 1 else f"no {count} free slots, which the test needs at once"
            raise NoFreeSlot(
                f"{wanted}: the limit of running guests is {self._limit} (waited {monotonic() - start:.0f} s)\n"
                "  `pytest-xhyve ps` lists them; --xhyve-max-guests raises the limit"
            )
        return slots

    def try_acquire_spare(self) -> Slot | None:
        """Hold the lowest free slot if another one stays free; None otherwise, without waiting."""
        slots = self._try_acquire(2)
        if slots is None:
            return None
        slot, other = slots
        os.close(other.fd)
        return slot

    def _try_acquire_alone(self, count: int) -> list[Slot] | None:
        """As `_try_acquire`, but one process at a time: two could each hold a part of the slots that both need."""
        lock = _try_lock(self._folder / _SEVERAL)
        if lock is None:
            # The other process holds the lock for microseconds.
            return None
        try:
            return self._try_acquire(count)
        finally:
            os.close(lock)

    def _try_acquire(self, count: int) -> list[Slot] | None:
        """Hold *count* free slots; None, and no slot is held, if fewer are free."""
        found: list[Slot] = []
        with ExitStack() as held:
            for number in range(self._limit):
                fd = _try_lock(self._folder / f"{number:03}.lock")
                if fd is None:
                    continue
                held.callback(os.close, fd)
                # With the user and the folder, so that two users of one host never share a UUID.
                folder = self._folder.resolve()
                found.append(Slot(number, f"{folder.stat().st_uid}:{folder}", fd))
                if len(found) == count:
                    held.pop_all()
                    return found
        return None


def _try_lock(path: Path) -> int | None:
    """Create the file at *path* if it is missing, and lock it: its descriptor, or None if another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return None
    return fd
