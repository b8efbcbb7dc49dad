"""Notes of the faults that a test has injected into a guest, for its report and for errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError

NETWORK = "network"
"""The place of faults of all links of a guest."""
LINK, CABLE = "link to {}", "LAN {}"
"""The places of the way to another guest, and of the cable of a LAN."""
CLOCK, MEMORY = "clock", "memory"
"""The places of faults that the guest's kernel has; a new one begins without them."""


def is_of_lan(place: str) -> bool:
    """Whether *place* is one of the guest's LANs."""
    return place == NETWORK or place.startswith((LINK.format(""), CABLE.format("")))


class FaultNotes:
    """The faults of one guest, in the order in which they were injected."""

    def __init__(self) -> None:
        self._begin = monotonic()
        self._lines: list[str] = []
        self._active: dict[str, str] = {}

    def note(self, place: str, fault: str | None) -> None:
        """Note that *fault* begins at *place*; None if *place* has no fault any more."""
        if fault is None and place not in self._active:
            return
        seconds = monotonic() - self._begin
        self._lines.append(f"fault after {seconds:.1f} s: {place}: {fault or 'healed'}")
        if fault is None:
            del self._active[place]
        else:
            self._active[place] = fault

    @property
    def active(self) -> Mapping[str, str]:
        """The present faults, by their places."""
        return dict(self._active)

    def end(self) -> None:
        """The hypervisor has ended, and all faults with it."""
        self._active.clear()

    def restarted(self) -> None:
        """The guest has restarted under the same hypervisor."""
        for place in (CLOCK, MEMORY):
            self._active.pop(place, None)

    def explain(self, error: XhyveError) -> None:
        """Add the present faults to *error*: they are the first cause to think of."""
        if self._active:
            faults = "; ".join(f"{place}: {fault}" for place, fault in self._active.items())
            error.add_note(f"the test has injected a fault into the guest: {faults}")

    @property
    def lines(self) -> Sequence[str]:
        """All faults so far, one line each."""
        return self._lines
