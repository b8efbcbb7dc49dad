"""Snapshots of a running guest, which a test takes and restores itself."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pytest_xhyve.formats.qcow2_overlay import COARSE, Qcow2Overlay
from pytest_xhyve.guest.clock import set_by_agent
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.recorder import WriteRecorder
from pytest_xhyve.guest.start import Start
from pytest_xhyve.hypervisors.base import SnapshotMachine, VirtualMachine
from pytest_xhyve.hypervisors.block import BlockLayer
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Disk, Machine

# The agent answers in some milliseconds, or is not there.
_AGENT_SECONDS = 0.5
# Bytes for the state of the devices.
_OVERHEAD = 64 << 20


@dataclass(frozen=True, eq=False, slots=True)
class Snapshot:
    """A saved state of one guest: its memory, its programs, its disks; `Guest.restore` brings it back.

    The guest's folder contains it, and it is removed with the guest.

    Attributes:
        guest: the guest's name.
        folder: the folder with its files.
        machine: the guest's machine, without the disks that were unplugged; no guest writes to its disks any more.
        sizes: the sizes of the disks, in bytes.
        has_agent: whether the machine has a second serial port.
    """

    guest: str
    folder: Path
    machine: Machine
    sizes: tuple[int, ...]
    has_agent: bool

    @property
    def state(self) -> Path:
        """The file with the state of memory and devices."""
        return self.folder / "state"

    def remove(self) -> None:
        """Free the memory's space on the host; the snapshot cannot be restored any more."""
        self.state.unlink(missing_ok=True)


def take_snapshot(
    vm: VirtualMachine,
    block: BlockLayer,
    machine: Machine,
    recorder: WriteRecorder,
    folder: Path,
    disks_changed: Callable[[Machine], None],
) -> Snapshot:
    """Save the running *machine*, which runs on afterwards, unless it was paused before.

    Args:
        vm: the running machine.
        block: what changes its disks.
        machine: its description.
        recorder: the recorder of its writes, which goes on.
        folder: the guest's folder.
        disks_changed: called with the machine each time it writes to another disk from now on, also if a later step
            fails.

    Raises:
        XhyveError: no space is left, or the hypervisor cannot save the machine.
    """
    free = shutil.disk_usage(folder).free
    needed = machine.memory + _OVERHEAD
    if free < needed:
        raise XhyveError(
            f"no space for a snapshot of guest {machine.name}: it may need {needed >> 20} MiB in {folder}, "
            f"but {free >> 20} MiB are free\n  snapshot.remove() frees an earlier one"
        )
    place = folder / f"snapshot-{secrets.token_hex(4)}"
    place.mkdir(mode=0o700)
    sizes = tuple(block.disk_size(number) for number in range(len(machine.disks)))
    overlays = _create_overlays(machine.disks, sizes, place)
    saved = replace(machine, unplugged=block.unplugged)
    snapshot = Snapshot(machine.name, place, saved, sizes, vm.has_agent)
    was_paused = vm.is_paused()
    if not was_paused:
        vm.pause()
    try:
        for number, overlay in enumerate(overlays):
            block.freeze(number, overlay.path)
            disks_changed(replace(machine, disks=(*overlays[: number + 1], *machine.disks[number + 1 :])))
        recorder.pin()
        vm.save_state(snapshot.state)
    except BaseException:
        # Only the disks are needed from now on.
        snapshot.remove()
        raise
    finally:
        if not was_paused:
            vm.resume()
    return snapshot


def check(snapshot: Snapshot, name: str, folder: Path) -> None:
    """Raise an error if *snapshot* is not one of the guest with this *name* and *folder*, or was removed.

    Raises:
        XhyveError: see above.
    """
    if snapshot.folder.parent != folder:
        raise XhyveError(f"the snapshot is one of guest {snapshot.guest}, so guest {name} cannot be restored from it")
    if not snapshot.state.exists():
        raise XhyveError(f"the snapshot of guest {name} was removed")


@dataclass(slots=True)
class SnapshotStart:
    """A guest that is to be restored.

    Attributes:
        machine: the machine, with disks of its own.
        start: its start.
        clock_is_set: whether the agent in the guest has set the clock and the random numbers, once it has started.
    """

    machine: Machine
    start: Start[VirtualMachine]
    clock_is_set: bool = False


def start_from_snapshot(instance: Instance, snapshot: Snapshot) -> SnapshotStart:
    """Prepare the restore of *snapshot*.

    Raises:
        OSError: no space is left.
    """
    place = snapshot.folder / f"restored-{secrets.token_hex(4)}"
    place.mkdir(mode=0o700)
    machine = replace(snapshot.machine, disks=_create_overlays(snapshot.machine.disks, snapshot.sizes, place))

    @contextmanager
    def running() -> Iterator[VirtualMachine]:
        starting = instance.snapshotter.start_waiting(machine, instance.process, has_agent=snapshot.has_agent)
        with starting as vm:
            yield vm

    def make_ready(vm: VirtualMachine) -> None:
        vm.load_state(snapshot.state)
        vm.resume()
        if snapshot.has_agent:
            restored.clock_is_set = set_by_agent(instance.agent(cast("SnapshotMachine", vm), _AGENT_SECONDS))

    restored = SnapshotStart(machine, Start("restore", running, make_ready))
    return restored


def _create_overlays(disks: tuple[Disk, ...], sizes: tuple[int, ...], folder: Path) -> tuple[Disk, ...]:
    """An empty overlay over each of *disks*, in *folder*."""
    overlays = []
    for number, (disk, size) in enumerate(zip(disks, sizes, strict=True)):
        overlay = Disk(folder / f"disk{number}.qcow2", "qcow2")
        with Qcow2Overlay(overlay.path, size, disk.path.resolve(), disk.format, COARSE):
            pass
        overlays.append(overlay)
    return tuple(overlays)
