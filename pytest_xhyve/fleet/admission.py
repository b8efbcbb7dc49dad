"""Which guests may start now: as many as there are slots, and what is made ahead only where nobody misses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pytest_xhyve.fleet.limits import has_memory_to_spare
from pytest_xhyve.fleet.slots import Slot, Slots
from pytest_xhyve.model.errors import Cancelled, NoFreeSlot

_SLOT_SECONDS = 600.0
_GLANCE_SECONDS = 0.1


class Admission:
    """Gives the guests of one process their slots.

    Args:
        folder: the slots of this user.
        limit: guests alive at once, over all processes of this user.
        patience: multiplies how long a test waits for a slot.
        report: gets a line when it does.
    """

    def __init__(self, folder: Path, limit: int, patience: float, report: Callable[[str], None]) -> None:
        self._slots = Slots(folder, limit)
        self._limit = limit
        self._patience = patience
        self._report = report
        self._own: set[int] = set()
        self.make_room: Callable[[], bool] = lambda: False
        """Takes away a guest that no test needs, when a test finds no free slot; False when none is left."""

    def take(self, stack: ExitStack) -> Slot:
        """A slot for a guest that a test waits for; it counts as ours until *stack* is closed.

        Raises:
            NoFreeSlot: none became free.
        """
        try:
            slot = self._take(0)
        except NoFreeSlot:
            slot = self._wait()
        return self._ours(slot, stack)

    def take_spare(self, stack: ExitStack, memory: int) -> Slot:
        """A slot for a guest with *memory* bytes that nobody has asked for yet.

        Raises:
            Cancelled: this would not leave enough of everything for others.
        """
        if not has_memory_to_spare(memory):
            raise Cancelled("the host has no memory to spare")
        slot = self._slots.take_spare()
        if slot is None:
            raise Cancelled("no two slots are free")
        return self._ours(slot, stack)

    def _ours(self, slot: Slot, stack: ExitStack) -> Slot:
        self._own.add(slot.number)
        stack.callback(self._own.discard, slot.number)
        return slot

    def _take(self, timeout: float) -> Slot:
        return self._slots.take(timeout=timeout, give_up=lambda: len(self._own) >= self._limit)

    def _wait(self) -> Slot:
        while self.make_room():
            with contextlib.suppress(NoFreeSlot):
                # A slot is free a moment after its guest's folder is gone.
                return self._take(_GLANCE_SECONDS)
        with contextlib.suppress(NoFreeSlot):
            # Who looks whether a slot is free holds it for a moment.
            return self._take(_GLANCE_SECONDS)
        self._report(f"waiting: {self._limit} guests are alive, and no more may be (--xhyve-max-guests)")
        return self._take(_SLOT_SECONDS * self._patience)
