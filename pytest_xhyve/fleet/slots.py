"""Slots: numbers that fix a guest's UUID, each held by one live guest at a time.

A held slot is an open, locked file (flock(2)). The lock belongs to the open file, so it goes with the descriptor
to the guardian and to the hypervisor, and is gone when the last of them is: also after ``kill -9``, and never
before. That is why this is not a `filelock.FileLock`, which keeps its descriptor to itself.

As the slots of all processes are the same files, their number is also the limit on the guests alive at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import UUID, uuid5

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_exponential

from pytest_xhyve.model.errors import NoFreeSlot

# Whoever takes several slots holds this lock meanwhile, so that two processes do not each get a part.
_DESK = "desk.lock"
_NAMESPACE = UUID("7b1f3f8e-3c43-4b5c-9d2a-6f1d8a0c9e57")


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that we hold.

    Attributes:
        number: from 0.
        place: whose slot it is: the user and the folder.
        fd: the locked descriptor; whoever has it (or a duplicate) holds the slot.
    """

    number: int
    place: str
    fd: int

    def uuids(self) -> Iterator[UUID]:
        """UUIDs that no other slot has, the same ones on every run; the first is used where nothing speaks against it.

        Some hypervisors refuse some UUIDs, for good.
        """
        yield uuid5(_NAMESPACE, f"{self.place}:{self.number}")
        for again in count(1):
            yield uuid5(_NAMESPACE, f"{self.place}:{self.number}:{again}")


class Slots:
    """The slots in *folder*, of which up to *limit* may be held at once."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def acquire(self, count: int, *, timeout: float, give_up: Callable[[], bool]) -> list[Slot]:
        """Hold the *count* lowest free slots, all of them in one step, or none.

        A process that held some and waited for more could wait for another one that does the same.

        Args:
            count: how many.
            timeout: seconds to wait until so many are free.
            give_up: asked while waiting; True if they cannot become free, as this process itself holds too many.

        Raises:
            NoFreeSlot: so many slots did not become free.
        """
        start = time.monotonic()
        waiting = Retrying(
            retry=retry_if_result(lambda slots: slots is None and not give_up()),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(timeout),
            retry_error_callback=lambda _: None,
        )
        slots: list[Slot] | None = waiting(self._find_free if count == 1 else self._find_together, count)
        if slots is None:
            wanted = "no free slot" if count == 1 else f"no {count} free slots, which the test needs at once"
            raise NoFreeSlot(
                f"{wanted}: at most {self._limit} guests may run at once (waited {time.monotonic() - start:.0f} s)\n"
                "  `pytest-xhyve ps` lists them; --xhyve-max-guests raises the limit"
            )
        return slots

    def take_spare(self) -> Slot | None:
        """Hold the lowest free slot if another one stays free; None otherwise, without waiting."""
        slots = self._find_free(2)
        if slots is None:
            return None
        slot, other = slots
        os.close(other.fd)
        return slot

    def _find_together(self, count: int) -> list[Slot] | None:
        """As `_find_free`, while no other process does the same: each could hold a part of what both need."""
        desk = _lock(self._folder / _DESK)
        if desk is None:
            # The other one needs some microseconds.
            return None
        try:
            return self._find_free(count)
        finally:
            os.close(desk)

    def _find_free(self, count: int) -> list[Slot] | None:
        """Hold *count* free slots; None, and none is held, if there are fewer."""
        found: list[Slot] = []
        with ExitStack() as held:
            for number in range(self._limit):
                fd = _lock(self._folder / f"{number:03}.lock")
                if fd is None:
                    continue
                held.callback(os.close, fd)
                # The folder and its owner are in it, so that two users of one host never share a UUID.
                place = self._folder.resolve()
                found.append(Slot(number, f"{place.stat().st_uid}:{place}", fd))
                if len(found) == count:
                    held.pop_all()
                    return found
        return None


def _lock(path: Path) -> int | None:
    """A locked descriptor of the file at *path*, which is made if it is not there; None if another one holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return None
    return fd
