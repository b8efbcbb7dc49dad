"""The fleet: clones, starts and hands out guests, and takes them all back."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.fleet.admission import Admission, guests_for_memory
from pytest_xhyve.fleet.keeping import HoldFailed, Keeping
from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.startup import ClonedMachine, Started, boot, restore
from pytest_xhyve.guest.events import EventList, Events
from pytest_xhyve.guest.guest import Guest, KeepPolicy, Ownership
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor, HypervisorInfo, Identity
from pytest_xhyve.hypervisors.choice import select_hypervisor
from pytest_xhyve.images.catalog import Catalog
from pytest_xhyve.images.check import check_image
from pytest_xhyve.model.errors import NotSupported, TemplateError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.model.settings import EMULATION_FACTOR, Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.timeouts import Timeouts
from pytest_xhyve.model.times import COMMAND, TEARDOWN, GuestTimes
from pytest_xhyve.templates.cache import BuildTemplate, TemplateCache
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.key import identity_parameters

if TYPE_CHECKING:
    from pytest_xhyve.templates.reset import Reset

_SHUTDOWN_SECONDS = 60.0
_STEP_SECONDS = 30.0
_REFUSAL_SECONDS = 10.0
_RESTORE_SECONDS = 30.0
_SETTLE_SECONDS = 30.0

# No guest can be named so.
_TEMPLATE = ".template"


class Fleet:
    """All guests of one process. It looks for nothing and starts no process before the first guest is asked for.

    Safe to use from several threads.

    Args:
        settings: what was asked for.
        home: the plugin's folder.
        events: gets what happens to the guests.
        reason_to_keep: decides which guests stay after the run.
        holds_failed: whether a guest that did not boot runs on until the fleet is closed.
        hypervisor: runs the guests; if it is None, the settings select one when the first guest is asked for.
        run: what all fleets of one run of pytest have in common, and no other run.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        events: Events | None = None,
        *,
        reason_to_keep: KeepPolicy | None = None,
        holds_failed: bool = False,
        hypervisor: Hypervisor | None = None,
        run: str | None = None,
    ) -> None:
        self._settings = settings
        self._home = home
        self._events = events or Events()
        self._reason_to_keep = reason_to_keep or _keep_none
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._hypervisor = hypervisor
        self._admission: Admission | None = None
        self._templates: TemplateCache | None = None
        self._guardian: Guardian | None = None
        self._run: tuple[Path, int] | None = None
        self._guests: set[Guest] = set()
        self._resets: dict[Guest, Reset] = {}
        self._reported: set[str] = set()
        self._keeping = Keeping(
            home.path / "runs", settings.keep, holds_failed, run or secrets.token_hex(8), self._events
        )
        self.catalog = Catalog(home, self._events.progress)
        self.make_room: Callable[[], bool] = lambda: False
        """Removes a prewarmed guest when a test finds no free slot; False if there is none."""

    def close(self) -> None:
        """Remove all guests that are left, and wait until none of their processes runs."""
        with ExitStack() as stack:
            stack.push(self._stack.pop_all())
            stack.callback(self.give_back_slots)
            for guest in list(self._guests):
                stack.callback(guest.remove)

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that was asked for, or the first that works here.

        Raises:
            HypervisorNotFound: no hypervisor found.
        """
        with self._lock:
            if self._hypervisor is None:
                self._hypervisor = select_hypervisor(self._settings, self._home, self._events.progress)
            return self._hypervisor

    @property
    def max_guests(self) -> int:
        """How many guests may be alive at once, over all processes of this user."""
        limit = self.hypervisor.max_guests
        if self._settings.max_guests is not None:
            return min(self._settings.max_guests, limit)
        # With "both", half of the guests boot.
        restored = self._settings.start in ("auto", "warm") and self.hypervisor.snapshotter is not None
        return min(limit, guests_for_memory(restored=restored))

    @property
    def admission(self) -> Admission:
        """Which guests of this process may start now."""
        with self._lock:
            if self._admission is None:
                folder = self._home.folder("slots")
                factor = self._settings.timeout_factor
                self._admission = Admission(folder, self.max_guests, factor, self._events.progress)
                self._admission.make_room = lambda: self.make_room() or self._keeping.give_up_last()
            return self._admission

    def give_back_slots(self) -> None:
        """Free the slots that were reserved for a test and not taken."""
        if self._admission is not None:
            self._admission.give_back()

    @property
    def templates(self) -> TemplateCache:
        """The templates of this user."""
        with self._lock:
            if self._templates is None:
                self._templates = TemplateCache(self._home, self._settings.templates_size, self._events.progress)
            return self._templates

    @property
    def run_folder(self) -> Path | None:
        """The folder of this run's guests; None before the first guest was asked for."""
        return None if self._run is None else self._run[0]

    def reset_of(self, guest: Guest) -> Reset | None:
        """What gives each test *guest* in the same state (``reset=True``); None if that was not asked for."""
        return self._resets.get(guest)

    def start(self, request: Request) -> Guest:
        """A running guest, which lives until it is removed or the fleet is closed.

        Raises:
            Cancelled: the request is that of a prewarmed guest, which cannot start now.
            XhyveError: in one of its kinds.
        """
        with self._home.explain_os_errors():
            return self._start(request)

    def _start(self, request: Request) -> Guest:
        """A guest's life, from top to bottom: at its end, *life* undoes all steps from bottom to top."""
        # First of all: as long as a run is alive, `prune` spares the image that it finds.
        guardian, run_folder = self._take_guardian()
        requested = time.monotonic()
        spec, hypervisor = request.spec, self.hypervisor
        image = self.catalog.find(spec.image if spec.image is not None else self._settings.images[0])
        check_image(image, self._home.folder("checked"))
        start = spec.start or self._settings.start
        _check_supported(spec, start, hypervisor)
        with ExitStack() as life:
            begin = time.monotonic()
            times = _Times()
            life.callback(self._report_times, times, request)
            slot = request.take_slot(self.admission, self._memory(spec, image), life)
            name = spec.name or f"{_as_name(image.name)}-{slot.number}"
            failures = HoldFailed(self._keeping, name, request.requested_by or "")
            folder = self._keeping.folder_for(run_folder / name)
            process = life.enter_context(guardian.guard(folder, [slot.fd], _about(name, image)))
            request.started_in(process)
            instance = self._instance(image, process, failures)
            machine = self._machine(spec, image, hypervisor.identify(slot.uuids()), name)
            cloned = ClonedMachine(instance, machine, request.hook, {"image": begin - requested})
            started = None
            if start != "cold" and hypervisor.snapshotter is not None:
                place = run_folder / f"{name}{_TEMPLATE}"
                build = self._template_builder(image, guardian, place, failures) if request.may_build else None
                try:
                    started = restore(cloned, self.templates, build, request, life, resettable=bool(spec.reset))
                except TemplateError as error:
                    if start == "warm":
                        raise
                    if request.may_build:
                        self._report_once(f"cannot restore guests of {image.name}, so they boot: {error}")
            started = started or boot(cloned, resettable=bool(spec.reset))
            guest = started.guest
            life.callback(guest._switch_off)
            self._guests.add(guest)
            life.callback(self._guests.discard, guest)
            if started.record is not None:
                self._resets[guest] = _reset(guest, instance, started)
                life.callback(self._resets.pop, guest)
            times.guest = guest
            life.callback(times.removal_begins)
            guest._owner = Ownership(life.pop_all(), partial(self._keeping.keep, process, guest), self._reason_to_keep)
        return guest

    def _report_times(self, times: _Times, request: Request) -> None:
        """Report how long each step took of a guest of which nothing is left; one that no test had is not reported."""
        if times.guest is not None and request.requested_by is not None:
            self._events.removed(times.collect(request.requested_by))

    def _instance(self, image: Image, process: GuardedProcess, failures: Events) -> Instance:
        timeouts = self._timeouts(self.hypervisor.info)
        # The failures first: they add to the error what the others report.
        return Instance(image, self.hypervisor, process, timeouts, EventList(failures, self._events))

    def _template_builder(self, image: Image, guardian: Guardian, place: Path, failures: Events) -> BuildTemplate:
        """What builds a template with a process of its own, for the guest that waits for it."""

        def build(workspace: Path, machine: Machine) -> tuple[Disk, AgentState]:
            # Imported only if there is no template yet.
            from pytest_xhyve.templates.builder import build_template  # noqa: PLC0415

            with guardian.guard(self._keeping.folder_for(place), [], _about(machine.name, image)) as process:
                return build_template(self._instance(image, process, failures), machine, workspace)

        return build

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._events.progress(line)

    def _machine(self, spec: GuestSpec, image: Image, identity: Identity, name: str) -> Machine:
        settings = self._settings
        return Machine(
            name=name,
            uuid=identity.uuid,
            cpus=spec.cpus or settings.cpus or image.cpus,
            cpu=image.cpu,
            memory=self._memory(spec, image),
            disks=(),
            nics=(Nic(identity.mac),),
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=" ".join([image.cmdline, *identity_parameters(name, identity.uuid)]),
        )

    def _memory(self, spec: GuestSpec, image: Image) -> int:
        return spec.memory or self._settings.memory or image.memory

    def _timeouts(self, info: HypervisorInfo) -> Timeouts:
        factor = self._settings.timeout_factor * (EMULATION_FACTOR if info.emulated else 1)
        return Timeouts(
            boot=self._settings.boot_timeout * factor,
            restore=_RESTORE_SECONDS * factor,
            shutdown=_SHUTDOWN_SECONDS * factor,
            step=_STEP_SECONDS * factor,
            refusal=_REFUSAL_SECONDS * factor,
            settle=_SETTLE_SECONDS * factor,
            reason=f"emulated: {info.reason}" if info.emulated else "",
        )

    def _take_guardian(self) -> tuple[Guardian, Path]:
        """The run's guardian and its folder; the first call starts it, after what dead runs left was removed."""
        with self._lock:
            folder = self._home.folder("runs")
            if self._run is None:
                runs.reap(folder)
                self._run = self._stack.enter_context(runs.new_run(folder))
            run_folder, lock = self._run
            if self._guardian is None or not self._guardian.is_alive():
                run_folder.mkdir(mode=0o700, exist_ok=True)
                if self._guardian is not None:
                    # Where the kernel does not end them with it, as on macOS, its guests run on.
                    runs.kill_hypervisors_of(run_folder)
                self._guardian = Guardian(run_folder, lock)
                self._stack.callback(self._guardian.close)
            return self._guardian, run_folder


def _keep_none(guest: Guest, error: BaseException | None) -> None:
    """The policy that keeps no guest."""


class _Times:
    """The times of one guest."""

    def __init__(self) -> None:
        self._guest: Guest | None = None
        self._phases: dict[str, float] = {}
        self._removal = 0.0

    @property
    def guest(self) -> Guest | None:
        """The guest, once it has started."""
        return self._guest

    @guest.setter
    def guest(self, guest: Guest) -> None:
        # A later start of the same guest is no longer what it took to get it.
        self._guest, self._phases = guest, dict(guest.phases)

    def removal_begins(self) -> None:
        """From here on the guest is removed."""
        self._removal = time.monotonic()

    def collect(self, requested_by: str) -> GuestTimes:
        """The times of the guest, which is gone."""
        assert self._guest is not None
        if self._guest.first_command is not None:
            self._phases[COMMAND] = self._guest.first_command
        self._phases[TEARDOWN] = time.monotonic() - self._removal
        return GuestTimes(self._guest.name, self._guest.image.name, requested_by, self._phases)


def _reset(guest: Guest, instance: Instance, started: Started) -> Reset:
    from pytest_xhyve.templates.reset import Reset  # noqa: PLC0415

    assert started.record is not None
    return Reset(guest, instance, started.record, started.agent)


def _check_supported(spec: GuestSpec, start: str, hypervisor: Hypervisor) -> None:
    """Raise `NotSupported` if the hypervisor cannot save a machine and the guest needs that."""
    if hypervisor.snapshotter is not None:
        return
    name = hypervisor.info.name
    if start == "warm":
        raise NotSupported(
            f"{name} cannot save a running machine, and so restores none; QEMU does, and "
            "--xhyve-start=auto boots guests where there is no other way"
        )
    if spec.reset:
        raise NotSupported(
            f"{name} cannot save a running machine, and so gives no guest back as it was "
            "(reset=True); QEMU does (--xhyve-hypervisor=qemu)"
        )


def _about(name: str, image: Image) -> dict[str, Any]:
    """What other processes may know of a guest."""
    return {"name": name, "image": image.name, "image_disk": str(image.disk), "owner": os.getpid()}


def _as_name(text: str) -> str:
    """*text* with only what a host name may have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48] or "guest"
