"""Admission control: a test's guest takes any free slot, a prewarmed guest only if another slot stays free."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from pytest_xhyve.fleet.slots import Slot, Slots
from pytest_xhyve.model.errors import Cancelled, NoFreeSlot

_SLOT_SECONDS = 600.0
_GLANCE_SECONDS = 0.1
_SHARE_OF_MEMORY = 0.75

# What a guest of the default size costs the host, with the hypervisor's own share. Restored guests share the pages of
# their template: benchmarks/many.py measures about 60 MiB for one that has done nothing yet; a test makes it more.
_BOOTED_BYTES = 640 << 20
_RESTORED_BYTES = 256 << 20
_HYPERVISOR_BYTES = 128 << 20

# What has to stay available beside a guest that no test has asked for yet.
_MARGIN = 0.1


class Admission:
    """Gives the guests of one process their slots.

    Args:
        folder: the slots of this user.
        limit: guests alive at once, over all processes of this user.
        patience: multiplies how long a test waits for a slot.
        report: gets a line when a test waits.
    """

    def __init__(self, folder: Path, limit: int, patience: float, report: Callable[[str], None]) -> None:
        self._slots = Slots(folder, limit)
        self._limit = limit
        self._patience = patience
        self._report = report
        self._lock = threading.Lock()
        self._own: set[int] = set()
        self._reserved: list[Slot] = []
        self.make_room: Callable[[], bool] = lambda: False
        """Removes a guest that no test needs, when a test finds no free slot; False if there is none."""

    def reserve(self, count: int) -> None:
        """Hold slots for the next *count* guests of this process, all of them in one step.

        `take` hands them out, and `give_back` frees those that were not needed.

        Raises:
            NoFreeSlot: so many slots did not become free.
        """
        with self._lock:
            missing = count - len(self._reserved)
        if missing > 0:
            slots = self._acquire(missing)
            with self._lock:
                self._reserved += slots

    def give_back(self) -> None:
        """Free the slots that were reserved and not taken."""
        with self._lock:
            unused, self._reserved = self._reserved, []
        for slot in unused:
            os.close(slot.fd)

    def take(self, stack: ExitStack) -> Slot:
        """A slot for a guest that a test waits for; it counts as this process's own until *stack* is closed.

        Raises:
            NoFreeSlot: no slot became free.
        """
        with self._lock:
            slot = self._reserved.pop(0) if self._reserved else None
        return self._count(slot or self._acquire(1)[0], stack)

    def take_spare(self, stack: ExitStack, memory: int) -> Slot:
        """A slot for a guest with *memory* bytes that no test has asked for yet.

        Raises:
            Cancelled: this would not leave enough slots and memory for others.
        """
        if not has_memory_to_spare(memory):
            raise Cancelled("the host has no memory to spare")
        slot = self._slots.take_spare()
        if slot is None:
            raise Cancelled("no two slots are free")
        return self._count(slot, stack)

    def _count(self, slot: Slot, stack: ExitStack) -> Slot:
        self._own.add(slot.number)
        stack.callback(self._own.discard, slot.number)
        return slot

    def _acquire(self, count: int) -> list[Slot]:
        try:
            return self._try(count, 0)
        except NoFreeSlot:
            return self._wait(count)

    def _try(self, count: int, timeout: float) -> list[Slot]:
        return self._slots.acquire(
            count, timeout=timeout, give_up=lambda: len(self._own) + len(self._reserved) + count > self._limit
        )

    def _wait(self, count: int) -> list[Slot]:
        while self.make_room():
            with contextlib.suppress(NoFreeSlot):
                # A slot is free a moment after its guest's folder is gone.
                return self._try(count, _GLANCE_SECONDS)
        with contextlib.suppress(NoFreeSlot):
            # A process that looks for free slots holds them for a moment.
            return self._try(count, _GLANCE_SECONDS)
        self._report(f"waiting: {self._limit} guests run, which is the limit (--xhyve-max-guests)")
        return self._try(count, _SLOT_SECONDS * self._patience)


def guests_for_memory(*, restored: bool) -> int:
    """How many guests may run at once, over all processes of this user.

    Args:
        restored: whether guests are restored from templates, and so share most of their memory.
    """
    each = _RESTORED_BYTES if restored else _BOOTED_BYTES
    return max(1, int(psutil.virtual_memory().total * _SHARE_OF_MEMORY / each))


def has_memory_to_spare(memory: int) -> bool:
    """Whether enough is available for a guest with *memory* bytes that no test has asked for yet."""
    found = psutil.virtual_memory()
    left: int = found.available - memory - _HYPERVISOR_BYTES
    return left > found.total * _MARGIN
