"""The life of one guest, from its request to its removal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.guest_timer import GuestTimer
from pytest_xhyve.fleet.keeping import HoldFailed
from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.resolve import ResolvedSpec
from pytest_xhyve.fleet.services import Services
from pytest_xhyve.fleet.sharing import serve_shares
from pytest_xhyve.fleet.slots import Slot
from pytest_xhyve.fleet.startup import ClonedMachine, Started, boot, restore
from pytest_xhyve.guest.events import EventList, Events
from pytest_xhyve.guest.guest import Guest, Ownership
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import TemplateError, XhyveError
from pytest_xhyve.model.machine import Disk, Machine

if TYPE_CHECKING:
    from pytest_xhyve.templates.identity import AgentState
    from pytest_xhyve.templates.reset import Reset

# This is not valid in a guest's name.
_TEMPLATE = ".template"


def start_guest(request: Request, services: Services) -> Guest:
    """A guest's life, from top to bottom; when it ends, the stack undoes all steps from bottom to top.

    Returns:
        The guest, when it is reachable over SSH.

    Raises:
        Cancelled: a prewarmed guest cannot start now, or its request was cancelled.
        XhyveError: the guest cannot be started; the class of the error states the reason.
    """
    # First, as `prune` keeps the images that a living run may use.
    guardian, run_folder = services.run.get()
    requested = monotonic()
    resolved = services.resolver.resolve(request.spec)
    services.resolver.check(resolved)
    found = monotonic()
    with ExitStack() as life:
        times = GuestTimer(requested)
        life.callback(_report_times, times, request, services.events)
        slot = _acquire_slot(request, resolved, services, times, life)
        start = _Start(request, resolved, services, guardian, run_folder, resolved.name(slot.number), slot)
        process = life.enter_context(start.guarded_process())
        request.started_in(process)
        cloned = start.describe(process, {"image": found - requested}, life)
        started = start.restore(cloned, life) if resolved.is_restored else None
        started = started or boot(cloned, resettable=start.is_resettable)
        guest = started.guest
        life.callback(guest._switch_off)
        if resolved.spec.power_cuts:
            guest.record_writes()
        services.guests.add(guest)
        life.callback(services.guests.discard, guest)
        if started.record is not None:
            services.resets[guest] = _reset(guest, cloned.instance, started)
            life.callback(services.resets.pop, guest)
        times.guest = guest
        life.callback(times.begin_removal)
        # The guest removes itself from here on.
        guest._owner = Ownership(
            life.pop_all(),
            partial(services.kept_guests.keep, process, guest),
            services.reason_to_keep,
            partial(services.images.save, guest),
        )
    return guest


@dataclass(frozen=True, slots=True)
class _Start:
    """A start of a guest that has a slot.

    Attributes:
        request: what asks for the guest.
        resolved: what it is made of.
        services: what it has in common with the other guests of this process.
        guardian: owns its processes.
        run_folder: contains its folder.
        name: its name.
        slot: its slot.
    """

    request: Request
    resolved: ResolvedSpec
    services: Services
    guardian: Guardian
    run_folder: Path
    name: str
    slot: Slot

    @property
    def is_resettable(self) -> bool:
        return bool(self.resolved.spec.reset)

    def guarded_process(self) -> AbstractContextManager[GuardedProcess]:
        """The process of the guest, in a folder of its own."""
        image, label = self.resolved.image, self._label
        requested_by = self.request.requested_by
        return self.services.guard(self.guardian, self.run_folder / label, label, image, [self.slot.fd], requested_by)

    def describe(self, process: GuardedProcess, phases: dict[str, float], life: ExitStack) -> ClonedMachine:
        """The guest's machine, and what each start of it has in common; its folders are served until *life* ends."""
        resolved, lans = self.resolved, self.request.lans
        identity = resolved.hypervisor.identify(self.slot.uuids())
        machine = self.services.resolver.machine(resolved, identity, self.name, lans)
        shares = serve_shares(resolved.spec.shares, resolved.hypervisor, machine, life)
        instance = replace(self._instance(process), lans=lans, shares=shares)
        return ClonedMachine(instance, machine, self.request.hook, phases)

    def restore(self, cloned: ClonedMachine, life: ExitStack) -> Started | None:
        """The guest, restored from its template; None if it cannot be restored, and is to boot.

        Raises:
            TemplateError: it cannot be restored, and is not to boot.
        """
        request = self.request
        build = self._build_template if request.may_build else None
        try:
            return restore(cloned, self.services.templates, build, request, life, resettable=self.is_resettable)
        except TemplateError as error:
            if self.resolved.start == "warm":
                raise
            if request.may_build:
                image = self.resolved.image.name
                self.services.report_once(f"cannot restore guests of {image}, so they boot: {_in_one_line(error)}")
            return None

    @property
    def _label(self) -> str:
        # Several clusters may have guests of the same name.
        return self.name if self.request.lans.place is None else f"{self.name}-{self.slot.number}"

    def _instance(self, process: GuardedProcess) -> Instance:
        resolved, services = self.resolved, self.services
        timeouts = services.resolver.timeouts(resolved.image)
        failures = HoldFailed(services.kept_guests, self.name, self.request.requested_by or "")
        # The failures first: they add diagnostics to the error, which the other listener reports.
        events = EventList(failures, services.events)
        return Instance(resolved.image, resolved.hypervisor, process, timeouts, events, resolved.spec.disk_sizes)

    def _build_template(self, workspace: Path, machine: Machine) -> tuple[Sequence[Disk], AgentState]:
        """Build the guest's template in a process of its own, while the guest waits for it."""
        # Imported only if there is no template yet.
        from pytest_xhyve.templates.builder import build_template  # noqa: PLC0415

        folder = self.run_folder / f"{self._label}{_TEMPLATE}"
        with self.services.guard(self.guardian, folder, machine.name, self.resolved.image) as process:
            return build_template(self._instance(process), machine, workspace)


def _acquire_slot(
    request: Request, resolved: ResolvedSpec, services: Services, times: GuestTimer, life: ExitStack
) -> Slot:
    weight = services.resolver.weigh(resolved.spec, resolved.image)
    slot = request.acquire_slot(services.admission, weight, life)
    times.waited_for(slot.waited, before=slot.is_reserved)
    if not slot.is_reserved:
        services.report_wait(slot.waited, 1)
    return slot


def _report_times(times: GuestTimer, request: Request, events: Events) -> None:
    """Report the times of a removed guest, unless no test has used it."""
    if times.guest is not None and request.requested_by is not None:
        events.removed(times.collect(request.requested_by))


def _reset(guest: Guest, instance: Instance, started: Started) -> Reset:
    from pytest_xhyve.templates.reset import Reset  # noqa: PLC0415

    assert started.record is not None
    return Reset(guest, instance, started.record, started.agent)


def _in_one_line(error: XhyveError) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())
