"""The fleet: all guests of one process, which are removed at its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.hypervisors import Hypervisors
from pytest_xhyve.fleet.image_maker import ImageMaker
from pytest_xhyve.fleet.keeping import KeptGuests
from pytest_xhyve.fleet.life import start_guest
from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.run_guardian import RunGuardian
from pytest_xhyve.fleet.services import Services
from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.guest import Guest, KeepPolicy
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.host_files import check_host_files
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.image import Image, to_image_name
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

if TYPE_CHECKING:
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.preparation.run_context import RunContext
    from pytest_xhyve.templates.reset import Reset

# This is not valid in a guest's name.
_LAN = ".lan-"


class Fleet:
    """All guests of one process. It selects no hypervisor and starts no process before the first guest is requested.

    Safe to use from several threads.

    Args:
        settings: the run's settings.
        home: the cache folder.
        events: the listener for the guests' events; None for no listener.
        reason_to_keep: decides which guests stay after the run; None to keep none.
        hold_failed: whether a guest that did not boot runs on until the fleet is closed.
        hypervisor: runs the guests; if None, *settings* select one when the first guest is requested.
        run: an id that all fleets of one run of pytest share, and no other run has; random if None.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        events: Events | None = None,
        *,
        reason_to_keep: KeepPolicy | None = None,
        hold_failed: bool = False,
        hypervisor: Hypervisor | None = None,
        run: str | None = None,
    ) -> None:
        self._home = home
        self._events = events or Events()
        self._hypervisors = Hypervisors(settings, home, self._events.progress, hypervisor)
        self._run = RunGuardian(home, settings.artifacts)
        kept_guests = KeptGuests(
            home.path / "runs", settings.keep, hold_failed, run or secrets.token_hex(8), self._events
        )
        self.images = ImageMaker(
            settings, home, self._events.progress, self._hypervisors.for_image, self.run_context, self.start
        )
        self.catalog = self.images.catalog
        self._services = Services(
            settings,
            home,
            self._events,
            self._hypervisors,
            self._run,
            kept_guests,
            self.images,
            reason_to_keep or _keep_none,
        )
        self.resolver = self._services.resolver

    def close(self) -> None:
        """Remove all guests, and wait until their processes have ended."""
        with ExitStack() as stack:
            stack.callback(self._run.close)
            stack.callback(self.release_reserved_slots)
            for guest in list(self._services.guests):
                stack.callback(guest.remove)

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that the settings name, or the first one that works on this host, for the default image.

        Raises:
            HypervisorNotFound: no hypervisor found.
        """
        return self._hypervisors.default

    @property
    def max_guests(self) -> int:
        """The limit of guests that run at the same time, over all processes of this user."""
        return self._services.max_guests

    @property
    def admission(self) -> Admission:
        """The admission control of this process."""
        return self._services.admission

    @property
    def free_slot(self) -> Callable[[], bool]:
        """Called when a test finds no free slot: removes a prewarmed guest, or returns False."""
        return self._services.free_slot

    @free_slot.setter
    def free_slot(self, free_slot: Callable[[], bool]) -> None:
        self._services.free_slot = free_slot

    def reserve_slots(self, specs: Sequence[GuestSpec], requested_by: str) -> None:
        """Hold the slots of guests that are about to be started, all in one step, so that no test blocks another one.

        Args:
            specs: what the guests are made of; if no image is stated, a guest has the default size.
            requested_by: the test that needs them.

        Raises:
            NoFreeSlot: the guests exceed a limit, or their slots did not become free in time.
        """
        with self._home.explain_os_errors():
            waited = self.admission.reserve([self.resolver.weigh(spec) for spec in specs], requested_by)
        self._services.report_wait(waited, len(specs))

    def others_wait(self) -> bool:
        """Whether a test of another process waits for a slot."""
        admission = self._services.used_admission
        return admission is not None and admission.others_wait()

    def release_reserved_slots(self) -> None:
        """Free the slots that were reserved for a test and not used."""
        if (admission := self._services.used_admission) is not None:
            admission.release_reserved()

    @property
    def run_folder(self) -> Path | None:
        """The folder of this run's guests; None before the first guest is requested."""
        return self._run.folder

    def reset_of(self, guest: Guest) -> Reset | None:
        """What resets *guest* before each test; None if it was started without ``reset=True``."""
        return self._services.resets.get(guest)

    def start(self, request: Request) -> Guest:
        """Start a guest, and return it when it is reachable over SSH. Closing the fleet removes it.

        Raises:
            Cancelled: a prewarmed guest cannot start now, or its request was cancelled.
            XhyveError: the guest cannot be started; the class of the error states the reason.
        """
        # Outside of the block, which would look for the run's folder among the wrong files.
        check_host_files()
        with self._home.explain_os_errors(), self._run.explain_loss():
            return start_guest(request, self._services)

    @contextmanager
    def switch(self, lan: str) -> Iterator[Switch]:
        """The switch of a new LAN; it ends with the block, unless a kept guest is on the LAN.

        Args:
            lan: the LAN's name.
        """
        # Few runs have LANs.
        from pytest_xhyve.lan.switch import running_switch  # noqa: PLC0415

        check_host_files()
        guardian, run_folder = self._run.get()
        folder = run_folder / f"{lan}{_LAN}{secrets.token_hex(4)}"
        with guardian.guard(folder, [], {"lan": lan}) as process, running_switch(process, lan) as switch:
            yield switch

    def run_context(self) -> RunContext:
        """What `pytest_xhyve.preparation` needs of this run to look into a disk, or to prepare it.

        Raises:
            HypervisorNotFound: no hypervisor found.
        """
        from pytest_xhyve.preparation.run_context import RunContext  # noqa: PLC0415

        guardian, run_folder = self._run.get()

        def guard(name: str, image: Image) -> AbstractContextManager[GuardedProcess]:
            # Another thread may prepare a disk of the same name.
            folder = run_folder / f"{to_image_name(name)}.{secrets.token_hex(4)}"
            return self._services.guard(guardian, folder, name, image)

        return RunContext(
            self._home, self._hypervisors.for_image, self.resolver.timeouts, self._events, guard, run_folder
        )

    def report(self, line: str) -> None:
        """Show *line* to the user."""
        self._events.progress(line)


def _keep_none(guest: Guest, error: BaseException | None) -> None:
    """A `KeepPolicy` that keeps no guest."""
