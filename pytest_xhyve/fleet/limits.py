"""The limits of running guests, over all processes of a user, and the messages about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_xhyve.fleet.slots import HeldSlot
from pytest_xhyve.fleet.weight import guests_memory
from pytest_xhyve.host.memory import Memory
from pytest_xhyve.model.values import format_seconds, format_size

_MOST_HOLDERS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What all guests of a user may take together.

    Attributes:
        slots: number of guests.
        host: the memory of the host, of which they may take a part.
    """

    slots: int
    host: Memory

    @property
    def memory(self) -> int:
        """Bytes of the host's memory."""
        return guests_memory(self.host)

    def allow(self, weights: Sequence[int]) -> bool:
        """Whether guests that cost *weights* may run at the same time."""
        return len(weights) <= self.slots and sum(weights) <= self.memory

    def explain(self, weights: Sequence[int]) -> str:
        """The first line of an error: what is not free, with the limits and what guests that cost *weights* need."""
        count = len(weights)
        wanted = "no free slot" if count == 1 else f"no {count} free slots, which the test needs at once"
        lines = f"{wanted}: the limit of running guests is {self.slots}"
        if any(weights):
            lines += (
                f", and of their memory {format_size(self.memory)} (three quarters of the "
                f"{format_size(self.host.total)} of {self.host.owner}); {describe_guests(count)} "
                f"{'needs' if count == 1 else 'need'} {format_size(sum(weights))}"
            )
        return lines

    def explain_wait(self, weights: Sequence[int], held: Sequence[HeldSlot], seconds: float) -> str:
        """What guests that cost *weights* have waited for, for *seconds*, while the slots in *held* are held."""
        what = "a free slot" if len(weights) == 1 else f"{len(weights)} free slots"
        what += f", {format_seconds(seconds)} so far"
        if len(held) + len(weights) > self.slots:
            return f"{what}: the limit of running guests is {self.slots} (--xhyve-max-guests)"
        used = sum(slot.weight for slot in held)
        return (
            f"{what}: running guests take {format_size(used)} of the {format_size(self.memory)} of memory that they "
            f"may take, and {describe_guests(len(weights))} more take {format_size(sum(weights))}"
        )


def describe_guests(count: int) -> str:
    """The *count* of guests, for a message."""
    return "1 guest" if count == 1 else f"{count} guests"


def list_holders(held: Sequence[HeldSlot]) -> Iterator[str]:
    """A line for each test that holds slots in *held*, those with the most guests first; at most six lines."""
    tests = Counter(slot.holder for slot in held)
    for holder, count in tests.most_common(_MOST_HOLDERS):
        size = format_size(sum(slot.weight for slot in held if slot.holder == holder))
        yield f"{describe_guests(count)} ({size}): {holder}"
    if len(tests) > _MOST_HOLDERS:
        yield f"and those of {len(tests) - _MOST_HOLDERS} more tests"
