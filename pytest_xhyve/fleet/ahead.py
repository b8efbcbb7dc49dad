"""Guests that nobody has asked for yet, as seen by what makes them."""

from __future__ import annotations

import threading

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import Cancelled


class Ahead:
    """A guest that is made before anybody asks for it, and may be abandoned meanwhile, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ward: GuardedProcess | None = None
        self.is_cancelled = False
        self.asked_by: str | None = None
        """Who got it in the end."""

    def cancel(self) -> None:
        """Have it not be made any more; what is there of it is ended at once."""
        with self._lock:
            self.is_cancelled = True
            if self._ward is not None:
                self._ward.cancel()

    def started_in(self, process: GuardedProcess) -> None:
        """From here on, *process* is what is ended.

        Raises:
            Cancelled: it was.
        """
        with self._lock:
            self._ward = process
        self.check()

    def check(self) -> None:
        """Raise when nobody wants it any more.

        Raises:
            Cancelled: nobody does.
        """
        if self.is_cancelled:
            raise Cancelled("a guest that was made ahead is not wanted any more")
