"""What happens to guests, for those who report it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.times import GuestTimes

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


class Events:
    """A listener for the events of guests. A subclass overrides what it needs; every method does nothing here.

    A prewarmed guest starts on a thread of its own, and so its events come from that thread.
    """

    def progress(self, line: str) -> None:
        """A step begins or ends that takes long, such as the build of an image; *line* describes it."""

    def phase(self, guest: str, name: str) -> None:
        """The boot of the guest with this name enters the phase *name*."""

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        """*guest* did not boot. Its hypervisor still runs, if it ever did; afterwards it is powered off."""

    def command_finished(self, guest: Guest, completed: Completed, *, checked: bool) -> None:
        """A command of `Guest.run` has ended; if *checked*, an exit code other than 0 raises an error."""

    def file_fetched(self, guest: Guest, local: Path) -> None:
        """`Guest.get` has copied a file or folder to *local*."""

    def removing(self, guest: Guest) -> None:
        """*guest* is about to be removed; it still runs."""

    def removed(self, times: GuestTimes) -> None:
        """Nothing is left of a guest that a test had; *times* states how long each step of its life took."""

    def kept(self, kept: Kept) -> None:
        """A guest stays after the run."""

    def keep_failed(self, guest: Guest, error: XhyveError) -> None:
        """*guest* should have stayed after the run, but could not."""


class EventList(Events):
    """Passes each event on to several listeners, in their order."""

    def __init__(self, *listeners: Events) -> None:
        self._listeners = listeners

    def progress(self, line: str) -> None:
        for listener in self._listeners:
            listener.progress(line)

    def phase(self, guest: str, name: str) -> None:
        for listener in self._listeners:
            listener.phase(guest, name)

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        for listener in self._listeners:
            listener.boot_failed(guest, error)

    def command_finished(self, guest: Guest, completed: Completed, *, checked: bool) -> None:
        for listener in self._listeners:
            listener.command_finished(guest, completed, checked=checked)

    def file_fetched(self, guest: Guest, local: Path) -> None:
        for listener in self._listeners:
            listener.file_fetched(guest, local)

    def removing(self, guest: Guest) -> None:
        for listener in self._listeners:
            listener.removing(guest)

    def removed(self, times: GuestTimes) -> None:
        for listener in self._listeners:
            listener.removed(times)

    def kept(self, kept: Kept) -> None:
        for listener in self._listeners:
            listener.kept(kept)

    def keep_failed(self, guest: Guest, error: XhyveError) -> None:
        for listener in self._listeners:
            listener.keep_failed(guest, error)
