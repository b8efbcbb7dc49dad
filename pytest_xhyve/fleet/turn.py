"""One test's wait for slots, from joining the queue to its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_xhyve.fleet.limits import Limits, list_holders
from pytest_xhyve.fleet.queue import Queue, Ticket, Waiting
from pytest_xhyve.fleet.slots import RUN, HeldSlot, Holder, Slot, Slots
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import NoFreeSlot

# How often a waiting test looks at all others.
_LOOK_SECONDS = 0.2
# How often the first in the queue asks its process to remove a guest that no test needs.
_GIVE_WAY_SECONDS = 1.0
# A deadlock counts if it is seen this often.
_DEADLOCK_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Demand:
    """What a test waits for.

    Attributes:
        weights: bytes of the host's memory that each of its guests costs.
        holder: the test.
        find_stuck: the slots that stay held while it waits.
        give_way: removes a guest of this process that no test needs, or returns False.
        report: called once with a line if the wait is not short.
        silent: for how many seconds a wait is short.
    """

    weights: Sequence[int]
    holder: Holder
    find_stuck: Callable[[], set[int]]
    give_way: Callable[[], bool]
    report: Callable[[str], None]
    silent: float


class Turn:
    """The wait of one test, whose *ticket* is in the *queue*."""

    def __init__(self, slots: Slots, limits: Limits, queue: Queue, ticket: Ticket, demand: Demand) -> None:
        self._slots = slots
        self._limits = limits
        self._queue = queue
        self._ticket = ticket
        self._demand = demand
        self._begin = monotonic()
        self._next_look = self._begin
        self._next_give_way = self._begin + _GIVE_WAY_SECONDS
        self._ahead: int | None = None
        self._deadlocks = 0
        self._is_reported = False

    def try_take(self) -> list[Slot] | None:
        """The slots if it is this test's turn and they are free; the caller repeats this until it has them.

        Raises:
            NoFreeSlot: all tests that hold guests wait for each other, and this is the one that asked last.
        """
        now = monotonic()
        looks = now >= self._next_look
        if not looks and self._ahead is not None and self._queue.still_waits(self._ahead):
            return None
        with self._queue.locked():
            stuck = self._demand.find_stuck()
            self._ticket.update(stuck)
            waiting = self._queue.waiting()
            ahead = [other.number for other in waiting if other.number < self._ticket.number and not other.is_stopped]
            self._ahead = max(ahead, default=None)
            slots = None if ahead else self._take()
            if slots is not None or not looks:
                return slots
            held = self._slots.held()
            is_deadlock = bool(stuck) and _is_deadlock(held, waiting)
            # Only tests that hold guests can end it: the first one for which the free slots are enough goes ahead.
            if is_deadlock and ahead and (slots := self._take()) is not None:
                return slots
        self._next_look = now + _LOOK_SECONDS
        self._deadlocks = self._deadlocks + 1 if is_deadlock else 0
        if self._deadlocks >= _DEADLOCK_LOOKS and self._asked_last(waiting):
            raise self._deadlock(held)
        self._report_once(now, held, len(ahead))
        if not ahead and now >= self._next_give_way:
            self._next_give_way = now + _GIVE_WAY_SECONDS
            self._demand.give_way()
        return None

    def _take(self) -> list[Slot] | None:
        return self._slots.take(self._demand.weights, self._demand.holder)

    def _asked_last(self, waiting: Sequence[Waiting]) -> bool:
        """Whether this test asked last of those that hold guests and whose processes run."""
        last = max(other.number for other in waiting if other.slots and not other.is_stopped)
        return last == self._ticket.number

    def _deadlock(self, held: Sequence[HeldSlot]) -> NoFreeSlot:
        return NoFreeSlot(
            f"{self._limits.explain(self._demand.weights)}\n"
            "  deadlock: every running guest belongs to a test that waits for more, and this test asked last\n"
            f"{_lines(held)}"
            "  let each test ask for all its guests at once (fixtures instead of the factory), run fewer workers, or "
            "raise --xhyve-max-guests"
        )

    def _report_once(self, now: float, held: Sequence[HeldSlot], before: int) -> None:
        if self._is_reported or now - self._begin < self._demand.silent:
            return
        self._is_reported = True
        line = self._limits.explain_wait(self._demand.weights, held, now - self._begin)
        if before:
            line += f"; {before} asked before"
        holders = ", ".join(list_holders(held))
        self._demand.report(f"waiting for {line}; running: {holders or 'none'}")

    def timed_out(self, held: Sequence[HeldSlot]) -> NoFreeSlot:
        """The error if the slots in *held* stay held for too long."""
        return NoFreeSlot(
            f"{self._limits.explain(self._demand.weights)} (waited {monotonic() - self._begin:.0f} s)\n"
            f"{_lines(held)}"
            "  `pytest-xhyve ps` lists the guests; --xhyve-max-guests raises the limit"
        )


def _is_deadlock(held: Sequence[HeldSlot], waiting: Sequence[Waiting]) -> bool:
    """Whether each held slot belongs to a test that itself waits, or to a whole run, so that none will become free."""
    stuck = frozenset[int]().union(*(other.slots for other in waiting))
    return all(slot.number in stuck or slot.holder.test == RUN for slot in held)


def _lines(held: Sequence[HeldSlot]) -> str:
    return "".join(f"  {line}\n" for line in list_holders(held))
