"""The fleet: clones and starts the guests of one process, and removes all of them at its end."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.guest_timer import GuestTimer
from pytest_xhyve.fleet.hypervisors import Hypervisors
from pytest_xhyve.fleet.image_maker import ImageMaker
from pytest_xhyve.fleet.keeping import HoldFailed, KeptGuests
from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.run_guardian import RunGuardian
from pytest_xhyve.fleet.sharing import serve_shares
from pytest_xhyve.fleet.slots import Slot
from pytest_xhyve.fleet.startup import ClonedMachine, Started, boot, restore
from pytest_xhyve.fleet.supported import check_supported
from pytest_xhyve.fleet.timeouts import timeouts_of
from pytest_xhyve.fleet.weight import weigh_guest
from pytest_xhyve.guest.events import EventList, Events
from pytest_xhyve.guest.guest import Guest, KeepPolicy, Ownership
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.lans import GuestLans
from pytest_xhyve.host.disk_size import check_size
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.host_files import check_host_files
from pytest_xhyve.host.processes import find_start
from pytest_xhyve.hypervisors.base import Hypervisor, Identity
from pytest_xhyve.images.check import check_boots_by, check_image
from pytest_xhyve.images.manifest import DEFAULT_MEMORY
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, DiskSizes, Machine, Nic, lan_mac
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.timeouts import Timeouts
from pytest_xhyve.templates.cache import BuildTemplate, TemplateCache
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.key import identity_parameters

if TYPE_CHECKING:
    from pytest_xhyve.lan.switch import Switch
    from pytest_xhyve.preparation.run_context import RunContext
    from pytest_xhyve.templates.reset import Reset

# These are not valid in a guest's name.
_TEMPLATE, _LAN = ".template", ".lan-"
# A shorter wait for a slot is not reported, in seconds.
_SHORTEST_WAIT = 0.1


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
        self._settings = settings
        self._home = home
        self._events = events or Events()
        self._reason_to_keep = reason_to_keep or _keep_none
        self._lock = threading.RLock()
        self._hypervisors = Hypervisors(settings, home, self._events.progress, hypervisor)
        self._admission: Admission | None = None
        self._templates: TemplateCache | None = None
        self._run = RunGuardian(home, settings.artifacts)
        self._guests: set[Guest] = set()
        self._resets: dict[Guest, Reset] = {}
        self._reported: set[str] = set()
        self._kept_guests = KeptGuests(
            home.path / "runs", settings.keep, hold_failed, run or secrets.token_hex(8), self._events
        )
        self.images = ImageMaker(
            settings, home, self._events.progress, self._hypervisors.for_image, self.run_context, self.start
        )
        self.catalog = self.images.catalog
        self.free_slot: Callable[[], bool] = lambda: False
        """Called when a test finds no free slot: removes a prewarmed guest, or returns False."""

    def close(self) -> None:
        """Remove all guests, and wait until their processes have ended."""
        with ExitStack() as stack:
            stack.callback(self._run.close)
            stack.callback(self.release_reserved_slots)
            for guest in list(self._guests):
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
        limit = self.hypervisor.max_guests
        return limit if self._settings.max_guests is None else min(self._settings.max_guests, limit)

    @property
    def admission(self) -> Admission:
        """The admission control of this process."""
        with self._lock:
            folder = self._home.folder("slots")
            if self._admission is None:
                factor = self._settings.timeout_factor
                self._admission = Admission(folder, self.max_guests, factor, self._events.progress)
                self._admission.free_slot = lambda: self.free_slot() or self._kept_guests.release_newest()
            return self._admission

    def reserve_slots(self, specs: Sequence[GuestSpec], requested_by: str) -> None:
        """Hold the slots of guests that are about to be started, all in one step, so that no test blocks another one.

        Args:
            specs: what the guests are made of; if no image is stated, a guest has the default size.
            requested_by: the test that needs them.

        Raises:
            NoFreeSlot: the guests exceed a limit, or their slots did not become free in time.
        """
        with self._home.explain_os_errors():
            waited = self.admission.reserve([self._weigh(spec) for spec in specs], requested_by)
        if waited >= _SHORTEST_WAIT:
            self._events.waited(waited, len(specs))

    def others_wait(self) -> bool:
        """Whether a test of another process waits for a slot."""
        return self._admission is not None and self._admission.others_wait()

    def release_reserved_slots(self) -> None:
        """Free the slots that were reserved for a test and not used."""
        if self._admission is not None:
            self._admission.release_reserved()

    @property
    def templates(self) -> TemplateCache:
        """The cache of this user's templates."""
        with self._lock:
            for name in ("templates", "checked"):
                self._home.folder(name)
            if self._templates is None:
                self._templates = TemplateCache(self._home, self._settings.templates_size, self._events.progress)
            return self._templates

    @property
    def run_folder(self) -> Path | None:
        """The folder of this run's guests; None before the first guest is requested."""
        return self._run.folder

    def reset_of(self, guest: Guest) -> Reset | None:
        """What resets *guest* before each test; None if it was started without ``reset=True``."""
        return self._resets.get(guest)

    def start(self, request: Request) -> Guest:
        """Start a guest, and return it when it is reachable over SSH. Closing the fleet removes it.

        Raises:
            Cancelled: a prewarmed guest cannot start now, or its request was cancelled.
            XhyveError: the guest cannot be started; the class of the error states the reason.
        """
        # Outside of the block, which would look for the run's folder among the wrong files.
        check_host_files()
        with self._home.explain_os_errors(), self._run.explain_loss():
            return self._start(request)

    def _start(self, request: Request) -> Guest:
        """A guest's life, from top to bottom; when it ends, the stack undoes all steps from bottom to top."""
        # First, as `prune` keeps the images that a living run may use.
        guardian, run_folder = self._run.get()
        requested = monotonic()
        spec = request.spec
        image = self.catalog.find(self._image_of(spec))
        hypervisor = self._hypervisors.for_image(image)
        check_image(image, self._home.folder("checked"))
        check_size(spec.disk_size, image.disk)
        check_boots_by(spec.firmware or image.firmware, image)
        start = spec.start or self._settings.start
        check_supported(spec, start, hypervisor)
        with ExitStack() as life:
            begin = monotonic()
            times = GuestTimer(requested)
            life.callback(self._report_times, times, request)
            slot = self._acquire_slot(request, image, times, life)
            name = spec.name or f"{_to_host_name(image.name)}-{slot.number}"
            # Several clusters may have guests of the same name.
            label = name if request.lans.place is None else f"{name}-{slot.number}"
            failures = HoldFailed(self._kept_guests, name, request.requested_by or "")
            folder = self._kept_guests.folder_for(run_folder / label)
            process = life.enter_context(guardian.guard(folder, [slot.fd], _shared_record(label, image, request)))
            request.started_in(process)
            machine = self._machine(spec, image, hypervisor.identify(slot.uuids()), name, request.lans)
            shares = serve_shares(spec.shares, hypervisor, machine, life)
            instance = replace(
                self._instance(image, spec.disk_sizes, process, failures), lans=request.lans, shares=shares
            )
            cloned = ClonedMachine(instance, machine, request.hook, {"image": begin - requested})
            started = None
            if start != "cold" and hypervisor.snapshotter is not None:
                place = run_folder / f"{label}{_TEMPLATE}"
                build = (
                    self._template_builder(image, spec.disk_sizes, guardian, place, failures)
                    if request.may_build
                    else None
                )
                try:
                    started = restore(cloned, self.templates, build, request, life, resettable=bool(spec.reset))
                except TemplateError as error:
                    if start == "warm":
                        raise
                    if request.may_build:
                        self._report_once(f"cannot restore guests of {image.name}, so they boot: {_in_one_line(error)}")
            started = started or boot(cloned, resettable=bool(spec.reset))
            guest = started.guest
            life.callback(guest._switch_off)
            if spec.power_cuts:
                guest.record_writes()
            self._guests.add(guest)
            life.callback(self._guests.discard, guest)
            if started.record is not None:
                self._resets[guest] = _reset(guest, instance, started)
                life.callback(self._resets.pop, guest)
            times.guest = guest
            life.callback(times.begin_removal)
            guest._owner = Ownership(
                life.pop_all(),
                partial(self._kept_guests.keep, process, guest),
                self._reason_to_keep,
                partial(self.images.save, guest),
            )
        return guest

    def _acquire_slot(self, request: Request, image: Image, times: GuestTimer, life: ExitStack) -> Slot:
        slot = request.acquire_slot(self.admission, self._weigh(request.spec, image), life)
        times.waited_for(slot.waited, before=slot.is_reserved)
        if slot.waited >= _SHORTEST_WAIT and not slot.is_reserved:
            self._events.waited(slot.waited, 1)
        return slot

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
            folder = run_folder / f"{name}.{secrets.token_hex(4)}"
            return guardian.guard(self._kept_guests.folder_for(folder), [], _shared_record(name, image))

        return RunContext(self._home, self._hypervisors.for_image, self._timeouts_for, self._events, guard, run_folder)

    def _report_times(self, times: GuestTimer, request: Request) -> None:
        """Report the times of a removed guest, unless no test has used it."""
        if times.guest is not None and request.requested_by is not None:
            self._events.removed(times.collect(request.requested_by))

    def _instance(self, image: Image, sizes: DiskSizes, process: GuardedProcess, failures: Events) -> Instance:
        hypervisor, timeouts = self._hypervisors.for_image(image), self._timeouts_for(image)
        # The failures first: they add diagnostics to the error, which the other listener reports.
        return Instance(image, hypervisor, process, timeouts, EventList(failures, self._events), sizes)

    def _timeouts_for(self, image: Image | None) -> Timeouts:
        return timeouts_of(self._settings, self._hypervisors.for_image(image).info)

    def _template_builder(
        self, image: Image, sizes: DiskSizes, guardian: Guardian, place: Path, failures: Events
    ) -> BuildTemplate:
        """The function that builds a template in a process of its own, while the guest waits for it."""

        def build(workspace: Path, machine: Machine) -> tuple[Sequence[Disk], AgentState]:
            # Imported only if there is no template yet.
            from pytest_xhyve.templates.builder import build_template  # noqa: PLC0415

            with guardian.guard(
                self._kept_guests.folder_for(place), [], _shared_record(machine.name, image)
            ) as process:
                return build_template(self._instance(image, sizes, process, failures), machine, workspace)

        return build

    def report(self, line: str) -> None:
        """Show *line* to the user."""
        self._events.progress(line)

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._events.progress(line)

    def _machine(self, spec: GuestSpec, image: Image, identity: Identity, name: str, lans: GuestLans) -> Machine:
        settings = self._settings
        hypervisor = self._hypervisors.for_image(image)
        # One card is in all guests, so that those with a LAN and those without are restored from the same template.
        spare = 0 if hypervisor.snapshotter is None else 1
        lan_cards = max(spare, len(lans.switches)) if hypervisor.has_lans else 0
        firmware = spec.firmware or image.firmware
        return Machine(
            name=name,
            uuid=identity.uuid,
            cpus=spec.cpus or settings.cpus or image.cpus,
            cpu=image.cpu,
            memory=self._memory(spec, image),
            disks=(),
            nics=(Nic(identity.mac, network=spec.network or settings.network),),
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=" ".join([image.cmdline, *identity_parameters(name, identity.uuid)]),
            # Boot loaders write to the screen, and some of GRUB's do not work without one.
            graphics=firmware is not None,
            firmware=firmware,
            lan_macs=tuple(lan_mac(identity.uuid, number) for number in range(lan_cards)),
        )

    def _weigh(self, spec: GuestSpec, image: Image | None = None) -> int:
        """Bytes of the host's memory that a guest made of *spec* costs; *image* is None if it is not known yet."""
        image = image or self.catalog.known(self._image_of(spec))
        start = spec.start or self._settings.start
        restored = start != "cold" and self._hypervisors.for_image(image).snapshotter is not None
        return weigh_guest(self._memory(spec, image), restored=restored)

    def _memory(self, spec: GuestSpec, image: Image | None) -> int:
        return spec.memory or self._settings.memory or (DEFAULT_MEMORY if image is None else image.memory)

    def _image_of(self, spec: GuestSpec) -> str | os.PathLike[str] | Image:
        return self._settings.images[0] if spec.image is None else spec.image


def _keep_none(guest: Guest, error: BaseException | None) -> None:
    """A `KeepPolicy` that keeps no guest."""


def _reset(guest: Guest, instance: Instance, started: Started) -> Reset:
    from pytest_xhyve.templates.reset import Reset  # noqa: PLC0415

    assert started.record is not None
    return Reset(guest, instance, started.record, started.agent)


def _in_one_line(error: XhyveError) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())


def _shared_record(name: str, image: Image, request: Request | None = None) -> dict[str, Any]:
    """What other processes read about a guest: see `pytest_xhyve.host.runs.GuestRecord`."""
    owner = os.getpid()
    return {
        "name": name,
        "image": image.name,
        "image_disk": str(image.disk),
        "owner": owner,
        "owner_start": find_start(owner),
        "test": "" if request is None else request.requested_by,
    }


def _to_host_name(text: str) -> str:
    """*text* with a dash for each run of characters that a host name cannot contain; ``guest`` if nothing is left."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:48] or "guest"
