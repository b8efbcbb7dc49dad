"""The events of guests, for listeners that report them."""

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
    """A listener for the events of guests. Every method does nothing here; a subclass overrides those that it needs.

    A prewarmed guest starts on a thread of its own, so its events come from that thread.
    """

    def progress(self, line: str) -> None:
        """A long step begins or ends, such as the build of an image; *line* describes it.

        A line that begins with two spaces is about a part of that step. pytest shows such lines only with ``-v``.
        """

    def phase(self, guest: str, name: str) -> None:
        """The start of the guest named *guest* enters the phase *name*."""

    def waited(self, seconds: float, guests: int) -> None:
        """The test has waited for *seconds* until a number of *guests* could start."""

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        """*guest* did not boot, which *error* explains. If its hypervisor runs, it is killed afterwards."""

    def command_finished(self, guest: Guest, completed: Completed, *, checked: bool) -> None:
        """A command of `Guest.run` has ended, or was ended; if *checked*, an exit code other than 0 raises an error."""

    def file_fetched(self, guest: Guest, local: Path) -> None:
        """`Guest.get` has copied a file or folder to *local*."""

    def removing(self, guest: Guest) -> None:
        """*guest* is about to be removed; it still runs."""

    def removed(self, times: GuestTimes) -> None:
        """A test's guest is removed; *times* states how long each step took."""

    def kept(self, kept: Kept) -> None:
        """A guest stays after the run."""

    def keep_failed(self, guest: Guest, error: XhyveError) -> None:
        """*guest* should have stayed after the run, but *error* prevents it."""


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

    def waited(self, seconds: float, guests: int) -> None:
        for listener in self._listeners:
            listener.waited(seconds, guests)

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
