"""Recording how long a guest takes, from where it is made to where nothing is left of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.model.times import COMMAND, TEARDOWN, GuestTimes

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


class Recording:
    """The times of one guest.

    Args:
        keep: gets them when the guest is gone.
        asked_by: see `GuestTimes`.
    """

    def __init__(self, keep: Callable[[GuestTimes], None], asked_by: str) -> None:
        self._keep = keep
        self._asked_by = asked_by
        self._guest: Guest | None = None
        self._phases: dict[str, float] = {}
        self._ending = 0.0

    def made(self, guest: Guest) -> None:
        """The guest is made; when it is started again later, that is no longer what it took to get it."""
        self._guest = guest
        self._phases = dict(guest.phases)

    def ending(self) -> None:
        """From here on it is taken away."""
        self._ending = time.monotonic()

    def ended(self) -> None:
        """Nothing is left of it. A guest that never was `made` is nobody's."""
        if self._guest is None:
            return
        if self._guest.first_command is not None:
            self._phases[COMMAND] = self._guest.first_command
        self._phases[TEARDOWN] = time.monotonic() - self._ending
        self._keep(GuestTimes(self._guest.name, self._guest.image.name, self._asked_by, self._phases))
