"""The fleet: clones, starts and hands out guests, and takes them all back."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.ahead import Ahead
from pytest_xhyve.fleet.keeping import Keeping
from pytest_xhyve.fleet.limits import guests_for_memory
from pytest_xhyve.fleet.making import GuestMaking, MachineHook
from pytest_xhyve.fleet.recording import Recording
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.power import Timeouts
from pytest_xhyve.guest.starting import Failed
from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor, HypervisorInfo, Identity
from pytest_xhyve.hypervisors.choice import select_hypervisor
from pytest_xhyve.images.catalog import Catalog
from pytest_xhyve.images.check import check_image
from pytest_xhyve.model.errors import NotSupported, TemplateError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.model.settings import EMULATION_FACTOR, Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.templates.cache import Make, TemplateCache
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.key import identity_words

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
    """All guests of one process.

    Nothing is looked for and no process is started before the first guest is asked for. Safe to use from several
    threads.

    Args:
        settings: what was asked for.
        home: the plugin's folder.
        report: gets a line when something takes long.
        entered: gets the name of each phase of a guest's boot when it begins.
        holds_failed: whether a guest that did not boot is left as it is until the fleet is closed.
        run: what the fleets of one run have in common, where there are several.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        report: Callable[[str], None],
        entered: Callable[[str], None] = lambda _: None,
        *,
        holds_failed: bool = False,
        run: str | None = None,
    ) -> None:
        self._settings = settings
        self._home = home
        self._report = report
        self._entered = entered
        self._stack = ExitStack()
        self._lock = threading.RLock()
        self._guardian: Guardian | None = None
        self._run: tuple[Path, int] | None = None
        self._guests: set[Guest] = set()
        self._resets: dict[Guest, Reset] = {}
        self._told: set[str] = set()
        self.catalog = Catalog(home, report)
        self.make_room: Callable[[], bool] = lambda: False
        """Takes away a guest that nobody has asked for yet, when a test finds no free slot; False when none is left."""
        self.times: list[GuestTimes] = []
        """What became of the guests that were taken away, in that order; grows until the fleet is closed."""
        self._keeping = Keeping(home.path / "runs", settings.keep, holds_failed, run or secrets.token_hex(8), report)

    def close(self) -> None:
        """Take away whatever is left, and wait until nothing runs any more."""
        with ExitStack() as stack:
            stack.push(self._stack.pop_all())
            for guest in list(self._guests):
                stack.callback(guest.remove)

    @cached_property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that was asked for, or the first that works here.

        Raises:
            HypervisorNotFound: there is none.
        """
        return select_hypervisor(self._settings, self._home, self._report)

    @cached_property
    def max_guests(self) -> int:
        """How many guests may be alive at once, over all processes of this user."""
        most = self.hypervisor.max_guests
        if self._settings.max_guests is not None:
            return min(self._settings.max_guests, most)
        # With "both", half of them boot.
        restored = self._settings.start in ("auto", "warm") and self.hypervisor.snapshotter is not None
        return min(most, guests_for_memory(restored=restored))

    @property
    def kept(self) -> list[Kept]:
        """The guests that were left running, in that order; grows until the fleet is closed."""
        return self._keeping.kept

    @property
    def run_folder(self) -> Path | None:
        """The folder of this run's guests; None before the first was asked for."""
        return None if self._run is None else self._run[0]

    def start_guest(
        self, spec: GuestSpec, *, change: MachineHook | None = None, asked_by: str = "", ahead: Ahead | None = None
    ) -> Guest:
        """A running guest, which lives until it is removed or the fleet is closed.

        Args:
            spec: what it is made of.
            change: gets the machine before it starts, and returns what shall be started.
            asked_by: who wants it, for `times`.
            ahead: given where nobody has asked for it yet, so that it takes nothing that a test may need, and waits
                for nobody; `times` has it when somebody got it.

        Raises:
            Cancelled: it is made ahead, and this cannot be done now.
            XhyveError: in one of its kinds.
        """
        with self._home.explain_os_errors():
            return self._start_guest(spec, change, asked_by, ahead)

    def _start_guest(self, spec: GuestSpec, change: MachineHook | None, asked_by: str, ahead: Ahead | None) -> Guest:
        # First of all: while a run lives, nobody prunes the image that it finds.
        guardian, run_folder = self._take_guardian()
        asked = time.monotonic()
        image = self.catalog.find(spec.image if spec.image is not None else self._settings.images[0])
        check_image(image, self._home.folder("checked"))
        hypervisor = self.hypervisor
        start = spec.start or self._settings.start
        if start == "warm" and hypervisor.snapshotter is None:
            raise NotSupported(
                f"{hypervisor.info.name} cannot save a running machine, and so restores none; QEMU does, and "
                "--xhyve-start=auto boots guests where there is no other way"
            )
        if spec.reset and hypervisor.snapshotter is None:
            raise NotSupported(
                f"{hypervisor.info.name} cannot save a running machine, and so gives no guest back as it was "
                "(reset=True); QEMU does (--xhyve-hypervisor=qemu)"
            )
        with ExitStack() as stack:
            begin = time.monotonic()
            recording = Recording(self.times.append if ahead is None else partial(self._keep_used, ahead), asked_by)
            stack.callback(recording.ended)
            admission = self._admission
            slot = admission.take(stack) if ahead is None else admission.take_spare(stack, self._memory(spec, image))
            name = spec.name or f"{_as_name(image.name)}-{slot.number}"
            failed = partial(self._keeping.did_not_come_up, name, asked_by)
            folder = self._keeping.folder_for(run_folder / name)
            process = stack.enter_context(guardian.guard(folder, [slot.fd], _about(name, image)))
            if ahead is not None:
                ahead.started_in(process)
            making = GuestMaking(
                image=image,
                machine=self._machine(spec, image, hypervisor.identify(slot.uuids()), name),
                hypervisor=hypervisor,
                process=process,
                timeouts=self._timeouts(hypervisor.info),
                phases={"image": begin - asked},
                change=change,
                ahead=ahead,
                savable=bool(spec.reset),
                failed=failed,
                entered=self._entered,
            )
            guest = None
            if start != "cold" and hypervisor.snapshotter is not None:
                make = (
                    None if ahead else self._template_maker(image, guardian, run_folder / f"{name}{_TEMPLATE}", failed)
                )
                try:
                    guest = making.restore(self._templates, hypervisor.snapshotter, make, stack)
                except TemplateError as error:
                    if start == "warm":
                        raise
                    if ahead is None:
                        self._report_once(f"guests of {image.name} boot, for want of a template: {error}")
            guest = guest or making.boot()
            self._guests.add(guest)
            stack.callback(self._guests.discard, guest)
            if making.reset is not None:
                self._resets[guest] = making.reset
                stack.callback(self._resets.pop, guest)
            stack.callback(guest.kill)
            recording.made(guest)
            stack.callback(recording.ending)
            guest.owned_by(stack.pop_all(), partial(self._keeping.keep, process, guest))
        return guest

    def reset_of(self, guest: Guest) -> Reset | None:
        """What gives each test *guest* in the same state (``reset=True``); None where that was not asked for."""
        return self._resets.get(guest)

    @cached_property
    def _admission(self) -> Admission:
        folder, settings = self._home.folder("slots"), self._settings
        admission = Admission(folder, self.max_guests, settings.timeout_factor, self._report)
        admission.make_room = lambda: self.make_room() or self._keeping.give_up_last()
        return admission

    @cached_property
    def _templates(self) -> TemplateCache:
        return TemplateCache(self._home, self._settings.templates_size, self._report)

    def _template_maker(self, image: Image, guardian: Guardian, folder: Path, failed: Failed) -> Make:
        """What makes a template in the guardian's care, in the place of the guest that waits for it."""

        def make(workspace: Path, machine: Machine) -> tuple[Disk, AgentState]:
            # Imported only where there is none yet.
            from pytest_xhyve.templates.builder import make_template  # noqa: PLC0415

            timeouts = self._timeouts(self.hypervisor.info)
            place = self._keeping.folder_for(folder)
            with guardian.guard(place, [], _about(machine.name, image)) as process:
                return make_template(
                    image, machine, self.hypervisor, process, workspace, timeouts, failed, self._entered
                )

        return make

    def _report_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._report(line)

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
            cmdline=" ".join([image.cmdline, *identity_words(name, identity.uuid)]),
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
            why=f"emulated: {info.reason}" if info.emulated else "",
        )

    def _keep_used(self, ahead: Ahead, times: GuestTimes) -> None:
        if ahead.asked_by is not None:
            self.times.append(replace(times, asked_by=ahead.asked_by))

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


def _about(name: str, image: Image) -> dict[str, Any]:
    """What other processes may know of a guest."""
    return {"name": name, "image": image.name, "image_disk": str(image.disk), "owner": os.getpid()}


def _as_name(text: str) -> str:
    """*text* with only what a host name may have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48] or "guest"
