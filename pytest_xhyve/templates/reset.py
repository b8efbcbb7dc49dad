"""Giving each test a shared guest in the same state: saved once with all that runs in it, restored for each test.

A guest of which that is asked lives on memory that can be saved. After the fixtures have done their work the guest is
saved, which ends its machine; each test gets a new machine on a clone of the disk as it was then. What a test does to
its machine is thrown away with it, so that nothing has to be undone.

What the user waits for at every test is one restoring, as for a guest that comes from a template.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import psutil

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.power import SSH, Boot, Start, Timeouts
from pytest_xhyve.host.clone import clone_disk
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import Hypervisor, SnapshotMachine, Snapshotter
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.templates.builder import Record, run_as_root
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent, set_clock_and_seed

# The state of the devices, and what a test or fixture writes to its disk.
_ROOM = 256 << 20
_FULL = 16 << 20
_QUIET_SECONDS = 0.5
# What a guest that has just booted still does, it would do again in each test.
_BOOTED_QUIET_SECONDS = 3.0
_LOOK_SECONDS = 0.04
_IDLE_SHARE = 0.3
_SYNC_SECONDS = 120.0
# Once unlinked the program still has its name there, as long as it runs.
_IS_THE_AGENT_THERE = "sync; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q xhyve-agent"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A guest as it was saved.

    Attributes:
        folder: its memory and the state of its devices.
        machine: with its disk, to which nothing is written any more.
        prepared: what the agent in it holds open.
    """

    folder: Path
    machine: Machine
    prepared: AgentState


class _Restore:
    """The way in which a guest comes up from a checkpoint of its own; see `pytest_xhyve.guest.power.Start`.

    Args:
        checkpoint: what it is restored from.
        machine: the same, with a clone of its disk.
        snapshotter: the hypervisor's.
        process: the guest's place in the guardian's care.
        timeout: seconds that the agent may take to answer.
        record: where it can be saved again; None for one that need not be.
    """

    phase = "restore"

    def __init__(
        self,
        checkpoint: Checkpoint,
        machine: Machine,
        snapshotter: Snapshotter,
        process: GuardedProcess,
        timeout: float,
        record: Path | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._timeout = timeout
        source = checkpoint.folder
        self._starting = (
            partial(snapshotter.restoring, machine, process, source)
            if record is None
            else partial(snapshotter.recording, machine, process, record, source)
        )
        self._vm: SnapshotMachine | None = None

    @contextmanager
    def running(self) -> Iterator[SnapshotMachine]:
        with self._starting() as vm:
            self._vm = vm
            yield vm

    def make_ready(self) -> None:
        assert self._vm is not None
        self._vm.restore()
        try:
            # Not the name, nor the address: a fixture may have changed them.
            set_clock_and_seed(self._vm.agent, self._checkpoint.prepared, timeout=self._timeout)
        except IdentityError as error:
            raise XhyveError(f"its clock and random numbers are of the past: {error}") from error


class Reset:
    """Saves a guest, and restores it as often as is asked; the `Guest` stays the same object.

    Args:
        guest: running, on memory that is recorded in *record*.
        snapshotter: its hypervisor's.
        hypervisor: what boots it when a test switches it off and on.
        process: its place in the guardian's care.
        timeouts: how long it may take.
        record: where its memory is.
        prepared: of the agent in it, where there is one.
    """

    def __init__(
        self,
        guest: Guest,
        snapshotter: Snapshotter,
        hypervisor: Hypervisor,
        process: GuardedProcess,
        timeouts: Timeouts,
        record: Path,
        prepared: AgentState | None,
    ) -> None:
        self._guest = guest
        self._saver = snapshotter
        self._hypervisor = hypervisor
        self._ward = process
        self._timeouts = timeouts
        self._record: Path | None = record
        self._prepared = prepared
        self._checkpoints: list[Checkpoint] = []
        self._made = 0
        self._life: Path | None = None
        self._forgotten: list[Path] = []
        self._failure: str | None = None

    @property
    def is_recording(self) -> bool:
        """Whether what happens to the guest now can be saved."""
        return self._record is not None

    def save(self) -> Checkpoint:
        """Save the guest as it is now, which ends its machine.

        Raises:
            XhyveError: it cannot be saved: it is off, or does not answer, or there is no space.
        """
        assert self._record is not None
        guest, folder = self._guest, self._record
        # Whatever happens, it is not recorded any more.
        self._record = None
        try:
            with self._telling("cannot save"):
                if not guest.power.is_on:
                    raise XhyveError("it is off; what a fixture has shut down, it has to start again")
                self._check_space(_FULL)
                vm = cast("SnapshotMachine", guest.power.machine)
                there = guest.run(_IS_THE_AGENT_THERE, check=False, user="root", timeout=_SYNC_SECONDS)
                if self._prepared is None or there.returncode != 0:
                    mac = guest.mac
                    self._prepared = install_agent(partial(run_as_root, guest), vm.agent, mac, self._timeouts.step)
                    # What was put there may be on the disk.
                    guest.run("sync", timeout=_SYNC_SECONDS)
                guest.power.disconnect()
                self._wait_until_quiet(vm, _QUIET_SECONDS if there.returncode == 0 else _BOOTED_QUIET_SECONDS)
                vm.save(as_itself=True)
        except BaseException as error:
            self._failure = str(error)
            raise
        finally:
            guest.kill()
        checkpoint = Checkpoint(folder, guest.machine, self._prepared)
        self._checkpoints.append(checkpoint)
        return checkpoint

    def restore(self) -> None:
        """Give the guest the state that was saved last.

        Raises:
            XhyveError: it cannot be restored, or could not be saved.
        """
        self._come_up(record=False)

    def record(self) -> None:
        """As `restore`, so that it can be saved once more."""
        self._come_up(record=True)

    def forget(self, checkpoint: Checkpoint | None) -> None:
        """Never restore *checkpoint* again, which is the last one; None is the one that is being recorded."""
        if checkpoint is None:
            self._record = self._failure = None
        else:
            assert self._checkpoints[-1] == checkpoint
            self._forgotten.append(self._checkpoints.pop().folder)
        # The guest may still run in it: what its fixtures undo, they undo there. It goes when the next one comes.
        self._prepared = self._checkpoints[-1].prepared

    def _come_up(self, *, record: bool) -> None:
        guest = self._guest
        if self._failure is not None:
            raise XhyveError(f"guest {guest.name} has no state to be reset to: {self._failure}")
        checkpoint = self._checkpoints[-1]
        guest.kill()
        self._remove_old()
        folder = self._ward.folder / f"reset-{self._made}"
        self._made += 1
        with self._telling("cannot reset"):
            self._check_space(checkpoint.machine.memory + _ROOM if record else _FULL)
            folder.mkdir(mode=0o700)
            self._life = folder
            disk = clone_disk(checkpoint.machine.disks[0], folder, self._hypervisor.disk_formats)
            machine = replace(checkpoint.machine, disks=(disk,))
            boot: Start = Boot(self._hypervisor, machine, self._ward)
            if record:
                boot = Record(self._saver, machine, self._ward, folder)
            guest.change_machine(machine, boot)
            place = folder if record else None
            begin = _Restore(checkpoint, machine, self._saver, self._ward, self._timeouts.step, place)
            try:
                guest.restore(begin)
            except BaseException:
                guest.kill()
                raise
        if record:
            self._record = folder
            self._prepared = checkpoint.prepared

    def _remove_old(self) -> None:
        """Remove the folder of the last life, unless it was saved there, and those of forgotten checkpoints."""
        old = {*self._forgotten, *([] if self._life is None else [self._life])}
        for folder in old - {checkpoint.folder for checkpoint in self._checkpoints}:
            shutil.rmtree(folder)
        self._life = None
        self._forgotten.clear()

    def _wait_until_quiet(self, vm: SnapshotMachine, timeout: float) -> None:
        """Wait a moment until our session in the guest has ended, so that no restored guest has to end it.

        What a fixture has started may keep the guest busy for ever, so this is no more than a moment.
        """
        end = time.monotonic() + timeout
        while vm.count_accepted(SSH) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS / 4)
        assert self._ward.pid is not None
        measured = psutil.Process(self._ward.pid)
        used = _IDLE_SHARE
        while used >= _IDLE_SHARE * _LOOK_SECONDS and time.monotonic() < end:
            before = sum(measured.cpu_times()[:2])
            time.sleep(_LOOK_SECONDS)
            used = sum(measured.cpu_times()[:2]) - before

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._ward.folder).free
        if free < needed:
            raise XhyveError(f"it takes up to {needed >> 20} MiB in {self._ward.folder}, and {free >> 20} MiB are free")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Tell of what goes wrong in the block, and whether the disk is full."""
        try:
            yield
        except (XhyveError, IdentityError, OSError, psutil.Error) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if full or shutil.disk_usage(self._ward.folder).free < _FULL:
                # Memory that finds no space kills the hypervisor (SIGBUS), which says nothing of it.
                what = f"no space is left in {self._ward.folder}, so {what}"
            raise XhyveError(f"{what} the state of guest {self._guest.name}: {error}") from error
