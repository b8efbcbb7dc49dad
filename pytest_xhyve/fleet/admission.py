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
_RETRY_SECONDS = 0.1
_MEMORY_SHARE = 0.75

# Memory of the host that a guest of the default size takes, with its hypervisor. Restored guests share the pages of
# their template: benchmarks/many.py measures about 60 MiB for an idle one, and a test makes it more.
_BOOTED_BYTES = 640 << 20
_RESTORED_BYTES = 256 << 20
_HYPERVISOR_BYTES = 128 << 20

# The share of the host's memory that must stay available when a prewarmed guest starts.
_SPARE_SHARE = 0.1


class Admission:
    """Gives the guests of one process their slots.

    Args:
        folder: the folder of this user's slots.
        limit: limit of guests that run at the same time, over all processes of this user.
        timeout_factor: multiplies the 600 s for which a test waits for a slot.
        report: called with a line when a test waits.
    """

    def __init__(self, folder: Path, limit: int, timeout_factor: float, report: Callable[[str], None]) -> None:
        self._slots = Slots(folder, limit)
        self._limit = limit
        self._timeout_factor = timeout_factor
        self._report = report
        self._lock = threading.Lock()
        self._own: set[int] = set()
        self._reserved: list[Slot] = []
        self.free_slot: Callable[[], bool] = lambda: False
        """Called when a test finds no free slot: removes a guest that no test needs, or returns False."""

    def reserve(self, count: int) -> None:
        """Hold slots for the next *count* guests of this process, all in one step.

        `acquire` returns them one by one, and `release_reserved` frees those that were not needed.

        Raises:
            NoFreeSlot: *count* slots did not become free in time, or exceed the limit.
        """
        with self._lock:
            missing = count - len(self._reserved)
        if missing > 0:
            slots = self._acquire_slots(missing)
            with self._lock:
                self._reserved += slots

    def release_reserved(self) -> None:
        """Free the reserved slots that `acquire` has not returned."""
        with self._lock:
            unused, self._reserved = self._reserved, []
        for slot in unused:
            os.close(slot.fd)

    def acquire(self, stack: ExitStack) -> Slot:
        """Wait for a slot for a test's guest; it counts as this process's own until *stack* is closed.

        Raises:
            NoFreeSlot: no slot became free in time.
        """
        with self._lock:
            slot = self._reserved.pop(0) if self._reserved else None
        return self._count_as_own(slot or self._acquire_slots(1)[0], stack)

    def acquire_spare(self, stack: ExitStack, memory: int) -> Slot:
        """Take a slot for a prewarmed guest with *memory* bytes, without waiting.

        Raises:
            Cancelled: another slot, or enough memory, would not stay free.
        """
        if not has_spare_memory(memory):
            raise Cancelled("the host has too little free memory for a prewarmed guest")
        slot = self._slots.try_acquire_spare()
        if slot is None:
            raise Cancelled("fewer than two slots are free")
        return self._count_as_own(slot, stack)

    def _count_as_own(self, slot: Slot, stack: ExitStack) -> Slot:
        self._own.add(slot.number)
        stack.callback(self._own.discard, slot.number)
        return slot

    def _acquire_slots(self, count: int) -> list[Slot]:
        try:
            return self._acquire_within(count, 0)
        except NoFreeSlot:
            return self._wait_for_slots(count)

    def _acquire_within(self, count: int, timeout: float) -> list[Slot]:
        return self._slots.acquire(
            count, timeout=timeout, cannot_succeed=lambda: len(self._own) + len(self._reserved) + count > self._limit
        )

    def _wait_for_slots(self, count: int) -> list[Slot]:
        while self.free_slot():
            with contextlib.suppress(NoFreeSlot):
                # A slot becomes free a moment after its guest's folder is removed.
                return self._acquire_within(count, _RETRY_SECONDS)
        with contextlib.suppress(NoFreeSlot):
            # Another process that searches for free slots holds them for a moment.
            return self._acquire_within(count, _RETRY_SECONDS)
        self._report(f"waiting for a free slot: the limit of running guests is {self._limit} (--xhyve-max-guests)")
        return self._acquire_within(count, _SLOT_SECONDS * self._timeout_factor)


def max_guests_for_memory(*, restored: bool) -> int:
    """The limit of guests that this host's memory allows, over all processes of this user; at least 1.

    Args:
        restored: whether guests are restored from templates, and so share most of their memory.
    """
    each = _RESTORED_BYTES if restored else _BOOTED_BYTES
    return max(1, int(psutil.virtual_memory().total * _MEMORY_SHARE / each))


def has_spare_memory(memory: int) -> bool:
    """Whether a prewarmed guest with *memory* bytes would leave a tenth of the host's memory available."""
    host = psutil.virtual_memory()
    left: int = host.available - memory - _HYPERVISOR_BYTES
    return left > host.total * _SPARE_SHARE
