"""Measure the phases of a guest, from its request to its removal."""

from __future__ import annotations

import time

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.times import COMMAND, TEARDOWN, GuestTimes


class GuestTimer:
    """Measures the durations of one guest's phases."""

    def __init__(self, requested: float) -> None:
        self._requested = requested
        self._began = time.time() - (monotonic() - requested)
        self.waited = 0.0
        self._guest: Guest | None = None
        self._phases: dict[str, float] = {}
        self._removal = 0.0

    def waited_for(self, seconds: float, *, before: bool) -> None:
        """The guest's test has waited for *seconds* for its slot; if *before*, that was before the request."""
        self.waited = seconds
        if before:
            self._requested -= seconds
            self._began -= seconds

    @property
    def guest(self) -> Guest | None:
        """The guest; None until it has started."""
        return self._guest

    @guest.setter
    def guest(self, guest: Guest) -> None:
        # A copy, as a later start of the same guest replaces its phases.
        self._guest, self._phases = guest, dict(guest.phases)
        guest._requested = (self._began, self.waited)

    def begin_removal(self) -> None:
        """Called when the removal begins."""
        self._removal = monotonic()

    def collect(self, requested_by: str) -> GuestTimes:
        """The durations of all phases, once the guest is removed."""
        assert self._guest is not None
        if self._guest.first_command is not None:
            self._phases[COMMAND] = self._guest.first_command
        self._phases[TEARDOWN] = monotonic() - self._removal
        lived = monotonic() - self._requested - self.waited
        name, image = self._guest.name, self._guest.image.name
        return GuestTimes(name, image, requested_by, self._phases, self._began, self.waited, lived)
