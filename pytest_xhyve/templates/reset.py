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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import psutil

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.clone import clone_disk
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import SSH_PORT
from pytest_xhyve.templates import starts
from pytest_xhyve.templates.builder import run_as_root
from pytest_xhyve.templates.checkpoints import Checkpoint
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent

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


class Reset:
    """Saves a guest, and restores it as often as is asked; the `Guest` stays the same object.

    Args:
        guest: running, with its memory in a file in *record*.
        instance: the guest's.
        record: the folder that the guest can be saved to.
        agent: what the agent in the guest holds open, if there is one.
    """

    def __init__(self, guest: Guest, instance: Instance, record: Path, agent: AgentState | None) -> None:
        self._guest = guest
        self._instance = instance
        self._folder = instance.process.folder
        self._record: Path | None = record
        self._agent = agent
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
                if not guest._power.is_on:
                    raise XhyveError("it is off; what a fixture has shut down, it has to start again")
                self._check_space(_FULL)
                vm = cast("SnapshotMachine", guest._power.machine)
                there = guest.run(_IS_THE_AGENT_THERE, check=False, user="root", timeout=_SYNC_SECONDS)
                if self._agent is None or there.returncode != 0:
                    mac = guest.mac
                    timeout = self._instance.timeouts.step
                    self._agent = install_agent(partial(run_as_root, guest), vm.agent, mac, timeout)
                    # What was put there may be on the disk.
                    guest.run("sync", timeout=_SYNC_SECONDS)
                guest._power.disconnect()
                self._wait_until_quiet(vm, _QUIET_SECONDS if there.returncode == 0 else _BOOTED_QUIET_SECONDS)
                vm.save(as_itself=True)
        except BaseException as error:
            self._failure = str(error)
            raise
        finally:
            guest.kill()
        checkpoint = Checkpoint(folder, guest.machine, self._agent)
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
        self._agent = self._checkpoints[-1].agent

    def _come_up(self, *, record: bool) -> None:
        guest = self._guest
        if self._failure is not None:
            raise XhyveError(f"guest {guest.name} has no state to be reset to: {self._failure}")
        checkpoint = self._checkpoints[-1]
        guest.kill()
        self._remove_old()
        folder = self._folder / f"reset-{self._made}"
        self._made += 1
        with self._telling("cannot reset"):
            self._check_space(checkpoint.machine.memory + _ROOM if record else _FULL)
            folder.mkdir(mode=0o700)
            self._life = folder
            disk = clone_disk(checkpoint.machine.disks[0], folder, self._instance.hypervisor.disk_formats)
            machine = replace(checkpoint.machine, disks=(disk,))
            place = folder if record else None
            guest._replace_machine(
                machine,
                starts.resume(self._instance, machine, checkpoint, place),
                starts.record(self._instance, machine, folder) if record else Start.boot(self._instance, machine),
            )
        if record:
            self._record = folder
            self._agent = checkpoint.agent

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
        while vm.count_accepted(SSH_PORT) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS / 4)
        pid = self._instance.process.pid
        assert pid is not None
        measured = psutil.Process(pid)
        used = _IDLE_SHARE
        while used >= _IDLE_SHARE * _LOOK_SECONDS and time.monotonic() < end:
            before = sum(measured.cpu_times()[:2])
            time.sleep(_LOOK_SECONDS)
            used = sum(measured.cpu_times()[:2]) - before

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise XhyveError(f"it takes up to {needed >> 20} MiB in {self._folder}, and {free >> 20} MiB are free")

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Tell of what goes wrong in the block, and whether the disk is full."""
        try:
            yield
        except (XhyveError, IdentityError, OSError, psutil.Error) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if full or shutil.disk_usage(self._folder).free < _FULL:
                # Memory that finds no space kills the hypervisor (SIGBUS), which says nothing of it.
                what = f"no space is left in {self._folder}, so {what}"
            raise XhyveError(f"{what} the state of guest {self._guest.name}: {error}") from error
