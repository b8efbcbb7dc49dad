"""Start a guest that has a slot and a process: restore it from a template, or boot it."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.request import MachineHook, Request
from pytest_xhyve.guest.growth import grow_root
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.names import set_names
from pytest_xhyve.guest.start import BootMachine, Start
from pytest_xhyve.host.clone import clone_disk, clone_disks
from pytest_xhyve.host.disk_size import create_empty_disks, enlarge
from pytest_xhyve.host.exhaustion import explain_exhaustion, is_exhausted
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.host.home import is_full
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, ImageError, NotSupported, TemplateError, XhyveError
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates import starts
from pytest_xhyve.templates.cache import BuildTemplate, TemplateCache
from pytest_xhyve.templates.starts import RestoreFailed

if TYPE_CHECKING:
    from pytest_xhyve.templates.identity import AgentState

_FULL_DISK_BYTES = 16 << 20
# Folders in the guest's folder. The disk that a hook gets is in neither of them.
_RESTORED = "restored"
_RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Started:
    """A guest that has started.

    Attributes:
        guest: the guest.
        record: the folder to save it in (``reset=True``); None if it is not to be saved.
        agent: the state of the agent in a restored guest; None after a boot.
    """

    guest: Guest
    record: Path | None
    agent: AgentState | None


class ClonedMachine:
    """A machine with a clone of its image's disk and with its empty disks, modified by the hook.

    The first `get` makes the disks and calls the hook.

    Args:
        instance: what all starts of the guest have in common.
        machine: has an identity, but no disk.
        hook: modifies the machine; called at most once; None to leave the machine as it is.
        phases: seconds of the phases so far; the clone's are added.
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
        self._disk_states: list[tuple[int, int]] = []

    def get(self) -> Machine:
        """The machine to boot."""
        if self._modified is None:
            begin = monotonic()
            image, sizes, folder = self.instance.image, self.instance.disk_sizes, self.instance.process.folder
            formats = self.instance.hypervisor.disk_formats
            root = clone_disk(Disk(image.disk, image.format), folder, formats)
            if sizes.root is not None:
                enlarge(root, sizes.root)
            disks = (root, *create_empty_disks(sizes.empty, folder, formats))
            self.phases["clone"] = monotonic() - begin
            for disk in disks:
                # The clocks of file systems are coarse. After this, each write changes the time.
                os.utime(disk.path, ns=(0, 0))
            self._disk_states = [_size_and_mtime(disk) for disk in disks]
            self._cloned = replace(self._machine, disks=disks)
            self._modified = self._cloned if self._hook is None else self._hook(self._cloned)
        return self._modified

    @property
    def has_other_disks(self) -> bool:
        """Whether the hook has changed the list of disks; also True before the disk is cloned."""
        return self._cloned is None or self.get().disks != self._cloned.disks

    def for_restore(self) -> Machine:
        """The machine without its clone, for a start from a template's disk.

        Raises:
            TemplateError: the hook changed the machine so that no template fits.
        """
        # The hook gets the same machine as before a boot: with the clone of the image's disk.
        machine = self._machine if self._hook is None else self.get()
        if self._cloned is not None and (
            self.has_other_disks or [_size_and_mtime(disk) for disk in self._cloned.disks] != self._disk_states
        ):
            raise TemplateError("the hook pytest_xhyve_machine has changed the disks")
        if machine.cdroms or len(machine.nics) != 1 or machine.nics[0].mac is None:
            raise TemplateError("only a machine with one network card and no CD drive can be restored")
        return machine

    def discard(self) -> None:
        """Remove the disks; a restored guest uses its template's."""
        for disk in self._cloned.disks if self._cloned is not None else ():
            disk.path.unlink(missing_ok=True)


def boot(cloned: ClonedMachine, *, resettable: bool) -> Started:
    """Boot the guest from the clone of its image's disk, and grow its root file system into it.

    Args:
        cloned: the machine to boot.
        resettable: whether the guest's memory is a file, so that it can be saved.

    Raises:
        NotSupported: *resettable*, but the hook has changed the disks.
        XhyveError: the guest cannot boot; the class of the error states the reason.
    """
    machine, instance = cloned.get(), cloned.instance
    record = None
    if resettable:
        if cloned.has_other_disks:
            raise NotSupported(
                "the hook pytest_xhyve_machine has changed the disks of a guest with reset=True\n"
                "  the plugin does not know when such a disk changes, so it cannot reset the guest\n"
                "  do not change the disks, or remove reset=True; for empty disks, use disks=[…]"
            )
        record = instance.process.folder / _RECORDED
        record.mkdir(mode=0o700)
    guest = Guest(instance, machine, boot=_boot(instance, record), phases=cloned.phases)
    guest._boot_or_restore()
    try:
        if machine.firmware is not None:
            set_names(guest, instance.timeouts.step)
        if instance.disk_sizes.root is not None:
            grow_root(guest, instance.timeouts.step)
    except BaseException:
        guest._switch_off()
        raise
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
    """Restore the guest from its template; build the template first if there is none.

    Args:
        cloned: the machine to restore.
        cache: contains the templates.
        build: builds a template; None if no template may be built now.
        request: checked after an error, as it may have been cancelled.
        life: while it is open, the template is not removed.
        resettable: whether the guest's memory is a file, so that it can be saved again.

    Raises:
        TemplateError: the guest cannot be restored, but `boot` may work.
        XhyveError: the host has run out of file descriptors, memory or processes.
        Cancelled: the request was cancelled, or there is no template and none may be built.
    """
    machine, instance = cloned.for_restore(), cloned.instance
    with ExitStack() as held:
        begin = monotonic()
        template = held.enter_context(
            cache.using(instance.image, machine, instance.disk_sizes, instance.snapshotter, build)
        )
        found = monotonic()
        folder = instance.process.folder / _RESTORED
        record = folder if resettable else None
        try:
            folder.mkdir(mode=0o700)
            disks = clone_disks(template.disks, folder, instance.hypervisor.disk_formats)
            machine = replace(machine, disks=disks)
            phases = {**cloned.phases, "template": found - begin, "clone": monotonic() - found}
            guest = Guest(instance, machine, boot=_boot(instance, record), phases=phases)
            guest._boot_or_restore(starts.restore(instance, machine, template, record))
        except (XhyveError, OSError) as error:
            # If the request was cancelled, its hypervisor was killed, and the template is not at fault.
            request.check()
            shutil.rmtree(folder, ignore_errors=True)
            (instance.process.folder / CONSOLE).unlink(missing_ok=True)
            if request.may_build and _is_template_at_fault(error, instance.process.folder):
                cache.quarantine(template, str(error))
            exhaustion = explain_exhaustion(error)
            if exhaustion is not None:
                # A boot would meet the same, or take much longer for it.
                raise exhaustion from error
            # The report has one line for this, so without the console.
            reason = error.message if isinstance(error, BootFailed) else error
            raise TemplateError(f"cannot restore the guest from its template: {reason}") from error
        life.push(held.pop_all())
    cloned.discard()
    try:
        # A template has none.
        guest._mount_shares()
    except BaseException:
        guest._switch_off()
        raise
    return Started(guest, record, template.agent)


def _boot(instance: Instance, record: Path | None) -> BootMachine:
    if record is None:
        return partial(Start.boot, instance)
    return lambda machine: starts.record(instance, machine, record)


def _is_template_at_fault(error: Exception, folder: Path) -> bool:
    """Whether *error* shows that the template is damaged; a full disk, for example, is the host's problem."""
    if is_exhausted(error):
        return False
    # If the guardian has died, the guest's folder may be gone.
    if is_full(next(path for path in (folder, *folder.parents) if path.exists()), _FULL_DISK_BYTES):
        return False
    # A refused key does not show it: two manifests with different keys may share a disk, and so its template.
    broke = isinstance(error, ConnectionFailed) and error.broke
    return broke or isinstance(error, BootFailed | ImageError | RestoreFailed)


def _size_and_mtime(disk: Disk) -> tuple[int, int]:
    """The size in bytes and the modification time in nanoseconds; a write to the disk changes them."""
    stat = disk.path.stat()
    return stat.st_size, stat.st_mtime_ns
