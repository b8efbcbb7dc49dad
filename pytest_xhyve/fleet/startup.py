"""The two ways to start a guest that has a slot and a process: restore it from a template, or boot it."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_xhyve.fleet.request import MachineHook, Request
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.clone import clone_disk
from pytest_xhyve.host.guardian_process import CONSOLE
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, ImageError, NotSupported, TemplateError, XhyveError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates import starts
from pytest_xhyve.templates.cache import BuildTemplate, TemplateCache
from pytest_xhyve.templates.starts import RestoreFailed

if TYPE_CHECKING:
    from pytest_xhyve.templates.identity import AgentState

_FULL = 16 << 20
# Folders in the guest's own, where the disks that a hook knows are not.
_RESTORED = "restored"
_RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Started:
    """A guest that has started.

    Attributes:
        guest: the guest.
        record: the folder that it can be saved to; None if that was not asked for.
        agent: what the agent in the guest holds open, if there is one.
    """

    guest: Guest
    record: Path | None
    agent: AgentState | None


class ClonedMachine:
    """A guest's machine with a clone of its image's disk, as the hook modified it; cloned when it is first needed.

    Args:
        instance: the guest's.
        machine: with an identity, but without a disk.
        hook: modifies the machine, if anything does; called once.
        phases: the seconds of the steps before; the clone's are added.
    """

    def __init__(
        self, instance: Instance, machine: Machine, hook: MachineHook | None, phases: dict[str, float]
    ) -> None:
        self.instance = instance
        self.phases = phases
        self._machine = machine
        self._hook = hook
        self._cloned: Machine | None = None
        self._modified: Machine | None = None
        self._state = (0, 0)

    def get(self) -> Machine:
        """The machine that boots."""
        if self._modified is None:
            begin = time.monotonic()
            image = self.instance.image
            disk = clone_disk(
                Disk(image.disk, image.format), self.instance.process.folder, self.instance.hypervisor.disk_formats
            )
            self.phases["clone"] = time.monotonic() - begin
            # Clocks of file systems are coarse; from this time on, each write shows.
            os.utime(disk.path, ns=(0, 0))
            self._state = _state(disk)
            self._cloned = replace(self._machine, disks=(disk,))
            self._modified = self._cloned if self._hook is None else self._hook(self._cloned)
        return self._modified

    @property
    def has_its_own_disks(self) -> bool:
        """Whether the machine's disks are not just the clone."""
        return self._cloned is None or self.get().disks != self._cloned.disks

    def restorable(self) -> Machine:
        """The machine, to be given a template's disk.

        Raises:
            TemplateError: the hook modified it so that no template fits.
        """
        # A hook sees what it would see in a machine that boots: the clone of the image's disk.
        machine = self._machine if self._hook is None else self.get()
        if self._cloned is not None and (self.has_its_own_disks or _state(self._cloned.disks[0]) != self._state):
            raise TemplateError("the hook pytest_xhyve_machine changes their disks")
        if machine.cdroms or len(machine.nics) != 1 or machine.nics[0].mac is None:
            raise TemplateError("only a machine with one disk and one network card can be restored")
        return machine

    def discard(self) -> None:
        """Remove the clone, which a restored guest does not use."""
        for disk in self._cloned.disks if self._cloned is not None else ():
            disk.path.unlink(missing_ok=True)


def boot(cloned: ClonedMachine, *, resettable: bool) -> Started:
    """Boot the guest from the clone of its image's disk.

    Args:
        cloned: the machine.
        resettable: whether the guest's memory is a file, so that it can be saved.

    Raises:
        XhyveError: in one of its kinds.
    """
    machine, instance = cloned.get(), cloned.instance
    record = None
    if resettable:
        if cloned.has_its_own_disks:
            raise NotSupported(
                "the hook pytest_xhyve_machine changes the disks of a guest with reset=True\n"
                "  only a guest with the one disk that is cloned from its image can be reset; leave the disks as they "
                "are, or leave out reset=True"
            )
        record = instance.process.folder / _RECORDED
        record.mkdir(mode=0o700)
    guest = Guest(instance, machine, boot=_boot(instance, machine, record), phases=cloned.phases)
    guest._boot_or_restore()
    return Started(guest, record, None)


def restore(
    cloned: ClonedMachine,
    cache: TemplateCache,
    build: BuildTemplate | None,
    request: Request,
    life: ExitStack,
    *,
    resettable: bool,
) -> Started:
    """Restore the guest from its template, which is built first if there is none.

    Args:
        cloned: the machine.
        cache: has the templates.
        build: builds a template; None if none may be built now.
        request: is asked after an error whether it was cancelled.
        life: keeps the template from being removed as long as the guest lives.
        resettable: whether the guest's memory is a file, so that it can be saved again.

    Raises:
        TemplateError: the guest cannot be restored; `boot` still works.
        Cancelled: the request is, or no template may be built.
    """
    machine, instance = cloned.restorable(), cloned.instance
    with ExitStack() as held:
        begin = time.monotonic()
        template = held.enter_context(cache.using(instance.image, machine, instance.snapshotter, build))
        found = time.monotonic()
        folder = instance.process.folder / _RESTORED
        record = folder if resettable else None
        try:
            folder.mkdir(mode=0o700)
            disk = clone_disk(template.disk, folder, instance.hypervisor.disk_formats)
            machine = replace(machine, disks=(disk,))
            phases = {**cloned.phases, "template": found - begin, "clone": time.monotonic() - found}
            guest = Guest(instance, machine, boot=_boot(instance, machine, record), phases=phases)
            guest._boot_or_restore(starts.restore(instance, machine, template, record))
        except (XhyveError, OSError) as error:
            # An error of a hypervisor that was killed on purpose says nothing about the template.
            request.check()
            shutil.rmtree(folder, ignore_errors=True)
            (instance.process.folder / CONSOLE).unlink(missing_ok=True)
            if request.may_build and _is_about_the_template(error, instance.process.folder):
                cache.quarantine(template, str(error))
            # One line of a report, in which the guest's console has no place.
            reason = error.message if isinstance(error, BootFailed) else error
            raise TemplateError(f"no guest can be restored from its template: {reason}") from error
        life.push(held.pop_all())
    cloned.discard()
    return Started(guest, record, template.agent)


def _boot(instance: Instance, machine: Machine, record: Path | None) -> Start[Any]:
    return Start.boot(instance, machine) if record is None else starts.record(instance, machine, record)


def _is_about_the_template(error: Exception, folder: Path) -> bool:
    """Whether *error* is a reason against the template, and not against this host or this moment."""
    if shutil.disk_usage(folder).free < _FULL:
        return False
    # Other manifests may have other keys for the same disk, and so share its template.
    broke = isinstance(error, ConnectionFailed) and error.broke
    return broke or isinstance(error, BootFailed | ImageError | RestoreFailed)


def _state(disk: Disk) -> tuple[int, int]:
    """What changes with a write to the disk."""
    stat = disk.path.stat()
    return stat.st_size, stat.st_mtime_ns
