"""What the starts of one process's guests have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.hypervisors import Hypervisors
from pytest_xhyve.fleet.image_maker import ImageMaker
from pytest_xhyve.fleet.keeping import KeptGuests
from pytest_xhyve.fleet.resolve import SpecResolver
from pytest_xhyve.fleet.run_guardian import RunGuardian
from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.guest import Guest, KeepPolicy
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.processes import find_start
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.templates.cache import TemplateCache

if TYPE_CHECKING:
    from pytest_xhyve.templates.reset import Reset

# A shorter wait for a slot is not reported, in seconds.
_SHORTEST_WAIT = 0.1


class Services:
    """The parts of a fleet that its guests' lives use. Safe to use from several threads.

    Args:
        settings: the run's settings.
        home: the cache folder.
        events: the listener for the guests' events.
        hypervisors: the hypervisors of this process.
        run: the guardian and the folder of this run.
        kept_guests: the kept guests of this process.
        images: makes images.
        reason_to_keep: decides which guests stay after the run.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        events: Events,
        hypervisors: Hypervisors,
        run: RunGuardian,
        kept_guests: KeptGuests,
        images: ImageMaker,
        reason_to_keep: KeepPolicy,
    ) -> None:
        self._settings = settings
        self._home = home
        self.events = events
        self.run = run
        self.kept_guests = kept_guests
        self.images = images
        self.reason_to_keep = reason_to_keep
        self.resolver = SpecResolver(settings, home, images.catalog, hypervisors)
        self.guests: set[Guest] = set()
        """The guests that have started and are not removed yet."""
        self.resets: dict[Guest, Reset] = {}
        """What resets those that were started with ``reset=True``."""
        self.free_slot: Callable[[], bool] = lambda: False
        """Called when a test finds no free slot: removes a prewarmed guest, or returns False."""
        self._hypervisors = hypervisors
        self._lock = threading.RLock()
        self._admission: Admission | None = None
        self._templates: TemplateCache | None = None
        self._reported: set[str] = set()

    @property
    def max_guests(self) -> int:
        """The limit of guests that run at the same time, over all processes of this user."""
        limit = self._hypervisors.default.max_guests
        return limit if self._settings.max_guests is None else min(self._settings.max_guests, limit)

    @property
    def admission(self) -> Admission:
        """The admission control of this process."""
        with self._lock:
            folder = self._home.folder("slots")
            if self._admission is None:
                factor = self._settings.timeout_factor
                self._admission = Admission(folder, self.max_guests, factor, self.events.progress)
                self._admission.free_slot = lambda: self.free_slot() or self.kept_guests.release_newest()
            return self._admission

    @property
    def used_admission(self) -> Admission | None:
        """The same; None if nothing of this process has asked for a slot yet."""
        return self._admission

    @property
    def templates(self) -> TemplateCache:
        """The cache of this user's templates."""
        with self._lock:
            for name in ("templates", "checked"):
                self._home.folder(name)
            if self._templates is None:
                self._templates = TemplateCache(self._home, self._settings.templates_size, self.events.progress)
            return self._templates

    def guard(
        self,
        guardian: Guardian,
        folder: Path,
        name: str,
        image: Image,
        keep_open: Sequence[int] = (),
        requested_by: str | None = "",
    ) -> AbstractContextManager[GuardedProcess]:
        """The process of a guest, which ends with the block; see `Guardian.guard`.

        Args:
            guardian: owns it.
            folder: the guest's folder; another one beside it if a kept guest is in it.
            name: the guest's name, for other processes.
            image: the guest's image.
            keep_open: what the guardian keeps open as long as the guest lives.
            requested_by: the test that the guest is for; None if there is none yet.
        """
        owner = os.getpid()
        # What other processes read: see `pytest_xhyve.host.runs.GuestRecord`.
        record = {
            "name": name,
            "image": image.name,
            "image_disk": str(image.disk),
            "owner": owner,
            "owner_start": find_start(owner),
            "test": requested_by,
        }
        return guardian.guard(self.kept_guests.folder_for(folder), keep_open, record)

    def report_wait(self, seconds: float, guests: int) -> None:
        """Report that the test of so many *guests* has waited for their slots, unless it was a moment."""
        if seconds >= _SHORTEST_WAIT:
            self.events.waited(seconds, guests)

    def report_once(self, line: str) -> None:
        """Show *line* to the user, unless it was shown before."""
        if line not in self._reported:
            self._reported.add(line)
            self.events.progress(line)
