"""Admission control: which guests may run now. All guests that a test needs are admitted at once, or none.

A test's guests take any free slots, first come, first served over all processes of a user. A prewarmed guest takes a
slot only if another one stays free and no test waits.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tenacity import Retrying, retry_if_result, wait_exponential, wait_fixed

from pytest_xhyve.fleet.limits import Limits
from pytest_xhyve.fleet.queue import STOPPED_SECONDS, Queue
from pytest_xhyve.fleet.slots import Holder, Slot, Slots
from pytest_xhyve.fleet.turn import Demand, Turn
from pytest_xhyve.fleet.weight import has_spare_memory
from pytest_xhyve.host.locks import QUIET_SECONDS
from pytest_xhyve.host.memory import Memory, read_memory
from pytest_xhyve.model.clock import monotonic, stop_at
from pytest_xhyve.model.errors import Cancelled, NoFreeSlot

_SLOT_SECONDS = 600.0
# How often a waiting test looks whether it is its turn.
_TURN_SECONDS = 0.01
# A slot becomes free a moment after its guest is removed.
_REMOVAL_SECONDS = 0.1


class Admission:
    """Gives the guests of one process their slots.

    Args:
        folder: the folder of this user's slots.
        limit: limit of guests that run at the same time, over all processes of this user.
        timeout_factor: multiplies the 600 s for which a test waits for a slot.
        report: called with a line when a test waits.
        memory: the memory of the host; None to ask for it.
        stopped_after: after how many seconds without a sign of its process a waiting test is passed over.
        silent: for how many seconds a test waits before this is reported.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        timeout_factor: float,
        report: Callable[[str], None],
        memory: Memory | None = None,
        stopped_after: float = STOPPED_SECONDS,
        silent: float = QUIET_SECONDS,
    ) -> None:
        self._limits = Limits(limit, memory or read_memory())
        self._slots = Slots(folder, limit, self._limits.memory)
        self._new_queue = partial(Queue, folder / "queue", stopped_after)
        self._timeout_factor = timeout_factor
        self._report = report
        self._silent = silent
        self._lock = threading.Lock()
        self._own: dict[int, _Own] = {}
        self._waiting_threads: set[threading.Thread] = set()
        self._reserved: list[Slot] = []
        self.free_slot: Callable[[], bool] = lambda: False
        """Called when a test finds no free slot: removes a guest that no test needs, or returns False."""

    def reserve(self, weights: Sequence[int], requested_by: str = "") -> float:
        """Hold slots for the next guests of this process, all in one step; those that are reserved already count.

        `acquire` returns them one by one, and `release_reserved` frees those that were not needed.

        Args:
            weights: bytes of the host's memory that each guest costs (`pytest_xhyve.fleet.weight.weigh_guest`).
            requested_by: the test that needs them.

        Returns:
            for how many seconds the test waited.

        Raises:
            NoFreeSlot: the guests exceed a limit, or their slots did not become free in time.
        """
        with self._lock:
            missing = Counter(weights) - Counter(slot.weight for slot in self._reserved)
        if not missing:
            return 0.0
        begin = monotonic()
        slots = self._acquire_slots(sorted(missing.elements()), Holder(os.getpid(), requested_by))
        waited = monotonic() - begin
        with self._lock:
            for slot in slots:
                self._own[slot.number] = _Own(slot.weight, threading.current_thread())
                self._reserved.append(replace(slot, waited=waited, is_reserved=True))
        return waited

    def release_reserved(self) -> None:
        """Free the reserved slots that `acquire` has not returned."""
        with self._lock:
            unused, self._reserved = self._reserved, []
            for slot in unused:
                del self._own[slot.number]
        for slot in unused:
            os.close(slot.fd)

    def acquire(self, stack: ExitStack, weight: int = 0, requested_by: str = "") -> Slot:
        """Wait for a slot for a test's guest; it counts as this process's own until *stack* is closed.

        Args:
            stack: the guest's life.
            weight: bytes of the host's memory that the guest costs.
            requested_by: the test, class, module or session that the guest is for.

        Raises:
            NoFreeSlot: the guest exceeds a limit, or no slot became free in time.
        """
        slot = self._draw_reserved(weight)
        if slot is None:
            begin = monotonic()
            (slot,) = self._acquire_slots([weight], Holder(os.getpid(), requested_by))
            slot = replace(slot, waited=monotonic() - begin)
        return self._count_as_own(slot, stack)

    def acquire_spare(self, stack: ExitStack, weight: int) -> Slot:
        """Take a slot for a prewarmed guest that costs *weight* bytes of the host's memory, without waiting.

        Raises:
            Cancelled: another slot, or enough memory, would not stay free, or a test waits.
        """
        if not has_spare_memory(read_memory(), weight):
            raise Cancelled("the host has too little free memory for a prewarmed guest")
        # So that there is always room for another one like it.
        slots = self._try_now([weight, weight], Holder(os.getpid(), "a prewarmed guest"))
        if slots is None:
            raise Cancelled("fewer than two slots are free")
        slot, other = slots
        os.close(other.fd)
        return self._count_as_own(slot, stack)

    def others_wait(self) -> bool:
        """Whether a test of another process waits for a slot."""
        queue = self._new_queue()
        # If the folder is gone, no test waits in it.
        with contextlib.suppress(OSError, NoFreeSlot), queue.locked():
            return any(waiting.holder.pid != os.getpid() for waiting in queue.waiting())
        return False

    def _draw_reserved(self, weight: int) -> Slot | None:
        """The smallest reserved slot for a guest of *weight* bytes; None if there is none.

        If all are for smaller guests, as the image's memory was not known, one of them is used if there is room, or
        else released.
        """
        with self._lock:
            if not self._reserved:
                return None
            self._reserved.sort(key=lambda slot: slot.weight)
            slot = next((slot for slot in self._reserved if slot.weight >= weight), self._reserved[-1])
            self._reserved.remove(slot)
        if slot.weight >= weight:
            return slot
        with self._new_queue().locked():
            larger = self._slots.grow(slot, weight)
        if larger is None:
            self._disown(slot.number)
            os.close(slot.fd)
        return larger

    def _count_as_own(self, slot: Slot, stack: ExitStack) -> Slot:
        with self._lock:
            self._own[slot.number] = _Own(slot.weight, threading.current_thread())
        stack.callback(self._disown, slot.number)
        return slot

    def _disown(self, number: int) -> None:
        with self._lock:
            self._own.pop(number, None)

    def _acquire_slots(self, weights: Sequence[int], holder: Holder) -> list[Slot]:
        if not self._limits.allow(weights):
            raise NoFreeSlot(
                f"{self._limits.explain(weights)}\n"
                "  waiting is useless: ask for fewer or smaller guests, or raise --xhyve-max-guests"
            )
        slots = self._try_now(weights, holder)
        while slots is None and self.free_slot():
            slots = self._try_until(monotonic() + _REMOVAL_SECONDS, weights, holder)
        if slots is None:
            self._check_own(weights)
            slots = self._wait_in_queue(weights, holder)
        return slots

    def _try_now(self, weights: Sequence[int], holder: Holder) -> list[Slot] | None:
        """Hold slots if they are free and no test waits."""
        queue = self._new_queue()
        with queue.locked():
            return None if queue.waiting() else self._slots.take(weights, holder)

    def _try_until(self, end: float, weights: Sequence[int], holder: Holder) -> list[Slot] | None:
        trying = Retrying(
            retry=retry_if_result(lambda slots: slots is None),
            wait=wait_fixed(_TURN_SECONDS),
            stop=stop_at(end),
            retry_error_callback=lambda _: None,
        )
        slots: list[Slot] | None = trying(self._try_now, weights, holder)
        return slots

    def _wait_in_queue(self, weights: Sequence[int], holder: Holder) -> list[Slot]:
        thread = threading.current_thread()
        queue = self._new_queue()
        demand = Demand(weights, holder, partial(self._find_stuck, thread), self.free_slot, self._report, self._silent)
        with ExitStack() as stack:
            self._waiting_threads.add(thread)
            stack.callback(self._waiting_threads.discard, thread)
            with queue.locked():
                ticket = stack.enter_context(closing(queue.join(holder, len(weights))))
                ticket.update(demand.find_stuck())
            turn = Turn(self._slots, self._limits, queue, ticket, demand)
            waiting = Retrying(
                retry=retry_if_result(lambda slots: slots is None),
                wait=wait_exponential(multiplier=0.001, max=_TURN_SECONDS),
                stop=stop_at(monotonic() + _SLOT_SECONDS * self._timeout_factor),
                retry_error_callback=lambda _: None,
            )
            slots: list[Slot] | None = waiting(turn.try_take)
            if slots is None:
                with queue.locked():
                    held = self._slots.held()
                raise turn.timed_out(held)
        return slots

    def _find_stuck(self, thread: threading.Thread) -> set[int]:
        """The slots of this process that stay held while *thread* waits: not those of other threads that go on."""
        with self._lock:
            return {
                number
                for number, own in self._own.items()
                if own.thread is thread or own.thread in self._waiting_threads or not own.thread.is_alive()
            }

    def _check_own(self, weights: Sequence[int]) -> None:
        """Fail at once if the slots that stay held while this thread waits leave too little for *weights*."""
        stuck = self._find_stuck(threading.current_thread())
        with self._lock:
            own = [self._own[number].weight for number in stuck if number in self._own]
        if own and not self._limits.allow([*own, *weights]):
            raise NoFreeSlot(
                f"{self._limits.explain(weights)}\n"
                f"  waiting is useless, as this process holds {len(own)} of them: remove a guest that is no longer "
                "needed (guest.remove()), or raise --xhyve-max-guests"
            )


@dataclass(frozen=True, slots=True)
class _Own:
    """A slot of this process, and the thread that has acquired it."""

    weight: int
    thread: threading.Thread
