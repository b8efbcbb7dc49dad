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

    def take(self, *, timeout: float, give_up: Callable[[], bool]) -> Slot:
        """Hold the lowest free slot, waiting up to *timeout* seconds while all are taken.

        Args:
            timeout: seconds.
            give_up: asked while waiting; True when no slot can become free, as our own guests hold them all.

        Raises:
            NoFreeSlot: none became free.
        """
        start = time.monotonic()
        waiting = Retrying(
            retry=retry_if_result(lambda slot: slot is None and not give_up()),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(timeout),
            retry_error_callback=lambda _: None,
        )
        slot: Slot | None = waiting(self._find_free)
        if slot is None:
            raise NoFreeSlot(
                f"all {self._limit} guests that may be alive at once are "
                f"(waited {time.monotonic() - start:.0f} s)\n"
                "  `pytest-xhyve ps` shows them; --xhyve-max-guests raises the limit"
            )
        return slot

    def take_spare(self) -> Slot | None:
        """Hold the lowest free slot if another one stays free; None otherwise, without waiting."""
        slot = self._find_free()
        if slot is None:
            return None
        with ExitStack() as stack:
            stack.callback(os.close, slot.fd)
            other = self._find_free()
            if other is None:
                return None
            os.close(other.fd)
            stack.pop_all()
        return slot

    def _find_free(self) -> Slot | None:
        for number in range(self._limit):
            fd = os.open(self._folder / f"{number:03}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                continue
            # The folder and its owner are in it, so that two users of one host never share a UUID.
            place = self._folder.resolve()
            return Slot(number, f"{place.stat().st_uid}:{place}", fd)
        return None
