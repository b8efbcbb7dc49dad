"""Guests that nobody has asked for yet, as seen by what makes them."""

from __future__ import annotations

import threading

from pytest_xhyve.host.guardian import Ward
from pytest_xhyve.model.errors import Abandoned


class Ahead:
    """A guest that is made before anybody asks for it, and may be abandoned meanwhile, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ward: Ward | None = None
        self.is_abandoned = False
        self.asked_by: str | None = None
        """Who got it in the end."""

    def abandon(self) -> None:
        """Have it not be made any more; what is there of it is ended at once."""
        with self._lock:
            self.is_abandoned = True
            if self._ward is not None:
                self._ward.abandon()

    def goes_on_in(self, ward: Ward) -> None:
        """From here on, *ward* is what is ended.

        Raises:
            Abandoned: it was.
        """
        with self._lock:
            self._ward = ward
        self.check()

    def check(self) -> None:
        """Raise when nobody wants it any more.

        Raises:
            Abandoned: nobody does.
        """
        if self.is_abandoned:
            raise Abandoned("a guest that was made ahead is not wanted any more")
