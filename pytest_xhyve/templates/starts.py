"""The starts that use a saved state, or allow the guest to be saved; see `pytest_xhyve.guest.start.Start`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.templates.checkpoints import Checkpoint
from pytest_xhyve.templates.identity import IdentityError, set_clock_and_seed, set_identity
from pytest_xhyve.templates.store import Template


class RestoreFailed(XhyveError):
    """A guest was restored, but a test cannot use it."""


def record(instance: Instance, machine: Machine, folder: Path) -> Start[SnapshotMachine]:
    """Boot *machine* with its memory in a file in *folder*, so that it can be saved."""
    return Start("boot", lambda: instance.snapshotter.start_recorded(machine, instance.process, folder), agent={})


def restore(
    instance: Instance, machine: Machine, template: Template, record: Path | None = None
) -> Start[SnapshotMachine]:
    """Restore *machine* from *template*, and give it its own identity.

    Args:
        instance: the guest's instance.
        machine: the machine with its own identity, and with clones of the template's disks.
        template: the saved state.
        record: a folder that the machine can be saved to again; None if it cannot.
    """

    @contextmanager
    def running() -> Iterator[SnapshotMachine]:
        # The console starts with the output of the template's boot; the guest's own output follows.
        shutil.copyfile(template.folder / CONSOLE, instance.process.folder / CONSOLE)
        with _start_from(instance, machine, template.folder, record) as vm:
            yield vm

    def make_ready(vm: SnapshotMachine) -> None:
        vm.restore()
        try:
            set_identity(instance.agent(vm), template.agent, machine, instance.lans.place)
        except IdentityError as error:
            raise RestoreFailed(f"{machine.name} was restored, but has no identity of its own: {error}") from error

    return Start("restore", running, make_ready, template.agent.to_dict())


def resume(
    instance: Instance, machine: Machine, checkpoint: Checkpoint, record: Path | None = None
) -> Start[SnapshotMachine]:
    """Restore *machine* from a checkpoint of the same guest.

    Args:
        instance: the guest's instance.
        machine: the checkpoint's machine, with clones of its disks.
        checkpoint: the saved state.
        record: a folder that the machine can be saved to again; None if it cannot.
    """

    def make_ready(vm: SnapshotMachine) -> None:
        vm.restore()
        try:
            # The host name and the Ethernet address stay: a fixture may have changed them.
            set_clock_and_seed(instance.agent(vm), checkpoint.agent)
        except IdentityError as error:
            raise XhyveError(f"its clock and random numbers are those of the checkpoint: {error}") from error

    return Start(
        "restore",
        lambda: _start_from(instance, machine, checkpoint.folder, record),
        make_ready,
        checkpoint.agent.to_dict(),
    )


def _start_from(
    instance: Instance, machine: Machine, source: Path, record: Path | None
) -> AbstractContextManager[SnapshotMachine]:
    if record is None:
        return instance.snapshotter.start_restored(machine, instance.process, source)
    return instance.snapshotter.start_recorded(machine, instance.process, record, source)
