"""Making one guest, of which slot and place are settled: clone its disk, then restore it or boot it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_xhyve.fleet.ahead import Ahead
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.power import Boot, Start, Timeouts
from pytest_xhyve.guest.starting import Failed, start
from pytest_xhyve.host.clone import clone_disk
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE
from pytest_xhyve.hypervisors.base import Hypervisor, Snapshotter
from pytest_xhyve.model.errors import BootFailed, ConnectionFailed, ImageError, NotSupported, TemplateError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates.cache import Make, TemplateCache
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.restore import Restore, RestoreFailed

if TYPE_CHECKING:
    from pytest_xhyve.templates.reset import Reset

MachineHook = Callable[[Machine], Machine]

# Not among the disks that a hook knows.
_FULL = 16 << 20
_RESTORED = "restored"
_RECORDED = "recorded"


class GuestMaking:
    """What a guest is made from, and the two ways to make it.

    Args:
        image: what it is cloned from.
        machine: with an identity, and without a disk.
        hypervisor: what runs it.
        process: its place in the guardian's care.
        timeouts: how long it may take.
        phases: what the steps before took, in seconds.
        change: gets the machine before it starts, and returns what shall be started.
        ahead: given where nobody has asked for it yet.
        savable: whether the guest shall live on memory that can be saved; a template's way is `restore` all the same.
        failed: sees a guest that does not boot.
        entered: gets the name of each phase of a boot when it begins.
    """

    def __init__(
        self,
        *,
        image: Image,
        machine: Machine,
        hypervisor: Hypervisor,
        process: GuardedProcess,
        timeouts: Timeouts,
        phases: Mapping[str, float],
        change: MachineHook | None,
        ahead: Ahead | None = None,
        savable: bool = False,
        failed: Failed = lambda *_: None,
        entered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.image = image
        self._machine = machine
        self._hypervisor = hypervisor
        self._ward = process
        self._timeouts = timeouts
        self._phases = dict(phases)
        self._change = change
        self._ahead = ahead
        self._savable = savable
        self._failed = failed
        self._entered = entered
        self._cloned: Machine | None = None
        self._final: Machine | None = None
        self._state = (0, 0)
        self.reset: Reset | None = None
        """What resets the guest, once it is made and where that was asked for."""

    def boot(self) -> Guest:
        """The guest, booted from a clone of its image's disk.

        Raises:
            XhyveError: in one of its kinds.
        """
        machine = self._changed()
        folder = None
        if self._savable:
            if self._cloned is None or machine.disks != self._cloned.disks:
                raise NotSupported(
                    "the hook pytest_xhyve_machine changes the disks of a guest that shall be reset (reset=True); "
                    "only the one disk that is cloned from the image can be"
                )
            folder = self._ward.folder / _RECORDED
            folder.mkdir(mode=0o700)
        guest = self._guest(machine, record=folder)
        start(guest, self._ward, self._failed)
        self._let_be_reset(guest, folder, None)
        return guest

    def restore(self, cache: TemplateCache, snapshotter: Snapshotter, make: Make | None, stack: ExitStack) -> Guest:
        """The guest, restored from its template, which is made first when there is none.

        Args:
            cache: has the templates.
            snapshotter: the hypervisor's.
            make: makes a template; None where no test waits for it.
            stack: keeps the template from being removed as long as the guest lives.

        Raises:
            TemplateError: it cannot be restored; `boot` still works.
            Cancelled: nobody waits for it, and there is no template, or it is not wanted any more.
        """
        # A hook sees what it would see otherwise: the clone of the image's disk.
        machine = self._machine if self._change is None else self._changed()
        self._check_can_be_restored(machine)
        with ExitStack() as held:
            begin = time.monotonic()
            template = held.enter_context(cache.using(self.image, machine, snapshotter, make))
            found = time.monotonic()
            folder = self._ward.folder / _RESTORED
            record = folder if self._savable else None
            try:
                folder.mkdir(mode=0o700)
                disk = clone_disk(template.disk, folder, self._hypervisor.disk_formats)
                machine = replace(machine, disks=(disk,))
                phases = {"template": found - begin, "clone": time.monotonic() - found}
                guest = self._guest(machine, phases, record)
                self._restore(guest, Restore(snapshotter, machine, self._ward, template, self._timeouts.step, record))
            except (XhyveError, OSError) as error:
                if self._ahead is not None:
                    # What was ended by force says nothing against the template.
                    self._ahead.check()
                shutil.rmtree(folder, ignore_errors=True)
                (self._ward.folder / CONSOLE).unlink(missing_ok=True)
                if self._ahead is None and self._is_about_the_template(error):
                    cache.failed(template, str(error))
                # One line of a report, in which the guest's console has no place.
                why = error.message if isinstance(error, BootFailed) else error
                raise TemplateError(f"no guest can be restored from its template: {why}") from error
            stack.push(held.pop_all())
        self._let_be_reset(guest, record, template.prepared)
        for disk in self._cloned.disks if self._cloned is not None else ():
            disk.path.unlink(missing_ok=True)
        return guest

    def _is_about_the_template(self, error: Exception) -> bool:
        """Whether *error* says something against the template, and not against this host or this moment."""
        if shutil.disk_usage(self._ward.folder).free < _FULL:
            return False
        # Other manifests may have other keys for the same disk, and so share its template.
        broke = isinstance(error, ConnectionFailed) and error.broke
        return broke or isinstance(error, BootFailed | ImageError | RestoreFailed)

    def _restore(self, guest: Guest, restore: Restore) -> None:
        try:
            guest.restore(restore)
        except BaseException:
            guest.kill()
            raise

    def _let_be_reset(self, guest: Guest, record: Path | None, prepared: AgentState | None) -> None:
        """Give *guest* what resets it, where that was asked for."""
        if record is None:
            return
        from pytest_xhyve.templates.reset import Reset  # noqa: PLC0415

        snapshotter = self._hypervisor.snapshotter
        assert snapshotter is not None
        self.reset = Reset(guest, snapshotter, self._hypervisor, self._ward, self._timeouts, record, prepared)

    def _check_can_be_restored(self, machine: Machine) -> None:
        if self._cloned is not None and (machine.disks != self._cloned.disks or self._is_written()):
            raise TemplateError("the hook pytest_xhyve_machine changes their disks")
        if machine.cdroms or len(machine.nics) != 1 or machine.nics[0].mac is None:
            raise TemplateError("only a machine with one disk and one network card can be restored")

    def _is_written(self) -> bool:
        return self._cloned is not None and _state(self._cloned.disks[0]) != self._state

    def _changed(self) -> Machine:
        """The machine with its disk, cloned from the image, and with what the hook changed."""
        if self._final is None:
            begin = time.monotonic()
            source = Disk(self.image.disk, self.image.format)
            disk = clone_disk(source, self._ward.folder, self._hypervisor.disk_formats)
            self._phases["clone"] = time.monotonic() - begin
            # Clocks of file systems are coarse: from here on, whatever is written is seen.
            os.utime(disk.path, ns=(0, 0))
            self._state = _state(disk)
            self._cloned = replace(self._machine, disks=(disk,))
            self._final = self._cloned if self._change is None else self._change(self._cloned)
        return self._final

    def _guest(
        self, machine: Machine, phases: Mapping[str, float] = MappingProxyType({}), record: Path | None = None
    ) -> Guest:
        boot: Start = Boot(self._hypervisor, machine, self._ward)
        if record is not None:
            from pytest_xhyve.templates.builder import Record  # noqa: PLC0415

            assert self._hypervisor.snapshotter is not None
            boot = Record(self._hypervisor.snapshotter, machine, self._ward, record)
        return Guest(
            image=self.image,
            machine=machine,
            hypervisor=self._hypervisor.info,
            boot=boot,
            timeouts=self._timeouts,
            phases=self._phases | dict(phases),
            entered=self._entered,
        )


def _state(disk: Disk) -> tuple[int, int]:
    """What changes when somebody writes to the disk."""
    stat = disk.path.stat()
    return stat.st_size, stat.st_mtime_ns
