"""Reset a shared guest: save it with everything that runs in it, and restore it before each test.

The memory of such a guest is in a file, so that it can be saved. After the fixtures have run, the guest is saved, which
ends its machine. Each test gets a new machine, restored from the saved state, with clones of the saved disks. Whatever
a test does to its machine is removed with that machine.

Before each test, the user waits for one restore, as for a guest that is restored from a template.
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
from pytest_xhyve.guest.start import BootMachine, Start
from pytest_xhyve.host.clone import clone_disks
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import SSH_PORT
from pytest_xhyve.templates import starts
from pytest_xhyve.templates.builder import SYNC_SECONDS, run_as_root
from pytest_xhyve.templates.checkpoints import Checkpoint
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent

# Bytes for the state of the devices, and for what a test or fixture writes to its disk.
_OVERHEAD = 256 << 20
# A disk with less free space counts as full.
_FULL = 16 << 20
_IDLE_SECONDS = 0.5
# A guest that has just booted has more work to complete; otherwise, it would repeat that work in each test.
_BOOTED_IDLE_SECONDS = 3.0
_LOOK_SECONDS = 0.04
_IDLE_SHARE = 0.3
# The file of the agent is deleted, but /proc shows its name while it runs (proc(5)).
_SYNC_AND_FIND_AGENT = "sync; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -q xhyve-agent"


class Reset:
    """Saves a guest, and restores it any number of times; the `Guest` stays the same object.

    Args:
        guest: a running guest, with its memory in a file in *record*.
        instance: the guest's instance.
        record: the folder that the guest can be saved to.
        agent: what the agent in the guest holds open; None if the guest has no agent yet.
    """

    def __init__(self, guest: Guest, instance: Instance, record: Path, agent: AgentState | None) -> None:
        self._guest = guest
        self._instance = instance
        self._folder = instance.process.folder
        self._record: Path | None = record
        self._agent = agent
        self._checkpoints: list[Checkpoint] = []
        self._restores = 0
        self._current: Path | None = None
        self._forgotten: list[Path] = []
        self._failure: str | None = None

    @property
    def can_save(self) -> bool:
        """Whether the guest's memory is in a file, so that `save` is possible."""
        return self._record is not None

    def prepare(self) -> None:
        """The first step of saving the guest: what has to be done while it still runs.

        Raises:
            XhyveError: the guest is off or does not answer, or no space is left.
        """
        guest = self._guest
        with self._saving():
            if not guest._power.is_on:
                raise XhyveError("it is off; a fixture that shuts the guest down must start it again")
            self._check_space(_FULL)
            vm = cast("SnapshotMachine", guest._power.machine)
            found = guest.run(_SYNC_AND_FIND_AGENT, check=False, user="root", timeout=SYNC_SECONDS)
            if self._agent is None or found.returncode != 0:
                self._agent = install_agent(
                    partial(run_as_root, guest),
                    self._instance.architecture,
                    vm.agent,
                    guest.mac,
                    guest.machine.lan_macs,
                    self._instance.timeouts.step,
                )
                # The agent's file was written to the disk.
                guest.run("sync", timeout=SYNC_SECONDS)
            guest._power.login.disconnect()
            self._wait_until_idle(vm, _IDLE_SECONDS if found.returncode == 0 else _BOOTED_IDLE_SECONDS)

    def pause(self) -> None:
        """The second step: pause the guest at the moment that is to be saved.

        Raises:
            XhyveError: the guest is off.
        """
        with self._saving():
            self._guest._own_power.machine.pause()

    def save(self) -> Checkpoint:
        """The last step: save the paused guest, which ends its machine.

        Raises:
            XhyveError: the guest died, or no space is left.
        """
        assert self._record is not None
        assert self._agent is not None
        guest, folder = self._guest, self._record
        # A guest can be saved once, even if that fails.
        self._record = None
        with self._saving():
            vm = cast("SnapshotMachine", guest._own_power.machine)
            assert vm.block is not None
            machine = replace(guest.machine, unplugged=vm.block.unplugged)
            vm.save(as_itself=True)
        guest.kill()
        checkpoint = Checkpoint(folder, machine, self._agent, guest._exposed.ports)
        guest._recorder.keep_disks()
        self._checkpoints.append(checkpoint)
        return checkpoint

    def end(self) -> None:
        """The first part of `restore`: end the guest's machine. A second call does nothing."""
        self._guest.kill()

    def restore(self, *, recorded: bool = False) -> None:
        """Restore the guest from the last checkpoint.

        Args:
            recorded: whether the guest's memory is in a file again, so that it can be saved once more.

        Raises:
            XhyveError: the guest cannot be restored, or an earlier `save` failed.
        """
        guest = self._guest
        if self._failure is not None:
            raise XhyveError(f"guest {guest.name} has no saved state to reset it to: {self._failure}")
        checkpoint = self._checkpoints[-1]
        self.end()
        self._remove_old_folders()
        folder = self._folder / f"reset-{self._restores}"
        self._restores += 1
        with self._explain_errors("cannot reset"):
            self._check_space(checkpoint.machine.memory + _OVERHEAD if recorded else _FULL)
            folder.mkdir(mode=0o700)
            self._current = folder
            disks = clone_disks(checkpoint.machine.disks, folder, self._instance.hypervisor.disk_formats)
            machine = replace(checkpoint.machine, disks=disks)
            record = folder if recorded else None
            guest._exposed.ports = checkpoint.exposed
            guest._replace_machine(
                machine,
                starts.resume(self._instance, machine, checkpoint, record),
                self._boot(folder) if recorded else partial(Start.boot, self._instance),
            )
        if recorded:
            self._record = folder
            self._agent = checkpoint.agent

    def forget(self, checkpoint: Checkpoint | None) -> None:
        """Do not restore the last checkpoint again.

        Args:
            checkpoint: the last checkpoint; None if the guest was restored to be saved again, but was not saved.
        """
        if checkpoint is None:
            self._record = self._failure = None
        else:
            assert self._checkpoints[-1] == checkpoint
            self._forgotten.append(self._checkpoints.pop().folder)
        # The guest may still use the folder while its fixtures tear down; the next restore removes it.
        self._agent = self._checkpoints[-1].agent

    def _boot(self, folder: Path) -> BootMachine:
        return lambda machine: starts.record(self._instance, machine, folder)

    def _remove_old_folders(self) -> None:
        """Remove the folders of forgotten checkpoints and of the last machine, unless that became a checkpoint."""
        old = {*self._forgotten, *([] if self._current is None else [self._current])}
        for folder in old - {checkpoint.folder for checkpoint in self._checkpoints}:
            shutil.rmtree(folder)
        self._current = None
        self._forgotten.clear()

    def _wait_until_idle(self, vm: SnapshotMachine, timeout: float) -> None:
        """Wait until the plugin's SSH session in the guest has ended; otherwise, each restored guest has to end it.

        A program that a fixture started may keep the guest busy, so the wait ends after *timeout* seconds.
        """
        end = monotonic() + timeout
        while vm.count_accepted(SSH_PORT) and monotonic() < end:
            time.sleep(_LOOK_SECONDS / 4)
        pid = self._instance.process.pid
        assert pid is not None
        measured = psutil.Process(pid)
        used = _IDLE_SHARE
        while used >= _IDLE_SHARE * _LOOK_SECONDS and monotonic() < end:
            before = sum(measured.cpu_times()[:2])
            time.sleep(_LOOK_SECONDS)
            used = sum(measured.cpu_times()[:2]) - before

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise XhyveError(f"it needs up to {needed >> 20} MiB in {self._folder}, but {free >> 20} MiB are free")

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """For a step of saving: after an error in the block, the guest is off, and cannot be saved or restored."""
        try:
            with self._explain_errors("cannot save"):
                yield
        except BaseException as error:
            self._record = None
            self._failure = str(error)
            self._guest.kill()
            raise

    @contextmanager
    def _explain_errors(self, problem: str) -> Iterator[None]:
        """Turn an error in the block into one that states the *problem*, the guest, and whether the disk is full."""
        try:
            yield
        except (XhyveError, IdentityError, OSError, psutil.Error) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if full or shutil.disk_usage(self._folder).free < _FULL:
                # A hypervisor whose memory's file cannot grow dies by SIGBUS, without a message.
                problem = f"no space left in {self._folder}: {problem}"
            raise XhyveError(f"{problem} the state of guest {self._guest.name}: {error}") from error
