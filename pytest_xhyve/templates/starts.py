"""The starts that need a saved state, or make one; see `pytest_xhyve.guest.start.Start`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.guardian_process import CONSOLE
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.templates.checkpoints import Checkpoint
from pytest_xhyve.templates.identity import IdentityError, set_clock_and_seed, set_identity
from pytest_xhyve.templates.store import Template


class RestoreFailed(XhyveError):
    """A guest was restored, but cannot be used."""


def record(instance: Instance, machine: Machine, folder: Path) -> Start[SnapshotMachine]:
    """*machine* from power-on, with its memory in a file in *folder*, so that it can be saved."""
    return Start("boot", lambda: instance.snapshotter.start_recorded(machine, instance.process, folder))


def restore(
    instance: Instance, machine: Machine, template: Template, record: Path | None = None
) -> Start[SnapshotMachine]:
    """*machine* from *template*, with an identity of its own.

    Args:
        instance: the guest's.
        machine: with its own identity and its own disk, cloned from the template's.
        template: what it is restored from.
        record: a folder that the machine can be saved to again; None if it need not be.
    """

    @contextmanager
    def running() -> Iterator[SnapshotMachine]:
        # The output of the boot that the template was saved after; what the guest itself prints follows it.
        shutil.copyfile(template.folder / CONSOLE, instance.process.folder / CONSOLE)
        with _restoring(instance, machine, template.folder, record) as vm:
            yield vm

    def make_ready(vm: SnapshotMachine) -> None:
        vm.restore()
        mac = machine.nics[0].mac
        assert mac is not None
        try:
            set_identity(
                vm.agent,
                template.agent,
                name=machine.name,
                machine_id=machine.uuid.hex,
                mac=mac,
                timeout=instance.timeouts.step,
            )
        except IdentityError as error:
            raise RestoreFailed(f"{machine.name} was restored, but has no identity of its own: {error}") from error

    return Start("restore", running, make_ready)


def resume(
    instance: Instance, machine: Machine, checkpoint: Checkpoint, record: Path | None = None
) -> Start[SnapshotMachine]:
    """*machine* from a checkpoint of the same guest.

    Args:
        instance: the guest's.
        machine: the checkpoint's, with a clone of its disk.
        checkpoint: what it is restored from.
        record: a folder that the machine can be saved to again; None if it need not be.
    """

    def make_ready(vm: SnapshotMachine) -> None:
        vm.restore()
        try:
            # Host name and address stay: a fixture may have changed them.
            set_clock_and_seed(vm.agent, checkpoint.agent, timeout=instance.timeouts.step)
        except IdentityError as error:
            raise XhyveError(f"its clock and random numbers are those of the checkpoint: {error}") from error

    return Start("restore", lambda: _restoring(instance, machine, checkpoint.folder, record), make_ready)


def _restoring(
    instance: Instance, machine: Machine, source: Path, record: Path | None
) -> AbstractContextManager[SnapshotMachine]:
    if record is None:
        return instance.snapshotter.start_restored(machine, instance.process, source)
    return instance.snapshotter.start_recorded(machine, instance.process, record, source)
