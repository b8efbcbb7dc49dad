"""Making a template: boot a guest, let it come to rest, put the agent into it, save it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.power import Timeouts
from pytest_xhyve.guest.starting import Failed, start
from pytest_xhyve.host.clone import overlay_disk
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE
from pytest_xhyve.hypervisors.base import Hypervisor, SnapshotMachine, Snapshotter
from pytest_xhyve.model.errors import CommandTimeout, HypervisorExited
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent

_IDLE_SHARE = 0.1
_IDLE_LOOK_SECONDS = 0.25
_IDLE_LOOKS = 3
_INSTALL_SECONDS = 60.0


class Record:
    """The way in which a guest comes up that is going to be saved; see `pytest_xhyve.guest.power.Start`.

    Args:
        snapshotter: the hypervisor's.
        machine: what is started.
        process: its place in the guardian's care.
        folder: gets what is saved.
    """

    phase = "boot"

    def __init__(self, snapshotter: Snapshotter, machine: Machine, process: GuardedProcess, folder: Path) -> None:
        self._saver = snapshotter
        self._machine = machine
        self._ward = process
        self._folder = folder
        self._vm: SnapshotMachine | None = None

    @contextmanager
    def running(self) -> Iterator[SnapshotMachine]:
        with self._saver.recording(self._machine, self._ward, self._folder) as vm:
            self._vm = vm
            yield vm

    def make_ready(self) -> None:
        # The guest does it itself.
        return

    @property
    def machine(self) -> SnapshotMachine:
        """The running machine."""
        assert self._vm is not None
        return self._vm


def make_template(
    image: Image,
    machine: Machine,
    hypervisor: Hypervisor,
    process: GuardedProcess,
    folder: Path,
    timeouts: Timeouts,
    failed: Failed = lambda *_: None,
    entered: Callable[[str], None] = lambda _: None,
) -> tuple[Disk, AgentState]:
    """Make a template of *image* in *folder*.

    Args:
        image: what it is made of.
        machine: with a template's identity; its disk is made here.
        hypervisor: one that can save.
        process: the template's place in the guardian's care while it runs.
        folder: gets what is saved; empty.
        timeouts: a guest's.
        failed: sees a guest that does not boot.
        entered: gets the name of each phase of the boot when it begins.

    Returns:
        the disk as it was when the guest was saved, and what restored guests have to know of it.

    Raises:
        IdentityError: guests of this image cannot be given an identity of their own.
        XhyveError: it does not boot, or cannot be saved.
    """
    assert hypervisor.snapshotter is not None
    disk = overlay_disk(Disk(image.disk, image.format), folder, hypervisor.disk_formats)
    machine = replace(machine, disks=(disk,))
    record = Record(hypervisor.snapshotter, machine, process, folder)
    guest = Guest(
        image=image,
        machine=machine,
        hypervisor=hypervisor.info,
        boot=record,
        timeouts=timeouts,
        phases={},
        entered=entered,
    )
    try:
        start(guest, process, failed)
        _finish_boot(guest, timeouts.settle)
        agent, mac = record.machine.agent, guest.mac
        prepared = install_agent(lambda line, data: run_as_root(guest, line, data), agent, mac, timeouts.step)
        guest.run("sync", check=False)
        guest.ssh.close()
        _wait_until_idle(process, timeouts.settle)
        record.machine.save()
        shutil.copyfile(guest.console.path, folder / CONSOLE)
    finally:
        guest.kill()
    return disk, prepared


def _finish_boot(guest: Guest, timeout: float) -> None:
    """Let the guest start all that it starts; what a failed unit means is for tests to say."""
    line = "if [ -d /run/systemd/system ]; then systemctl is-system-running --wait; fi"
    with contextlib.suppress(CommandTimeout):
        guest.run(line, check=False, timeout=timeout)


def run_as_root(guest: Guest, line: str, data: bytes) -> str:
    """Run a shell line in *guest* for `prepare`, with *data* on its standard input."""
    done = guest.run(line, check=False, timeout=_INSTALL_SECONDS, input=data, user="root")
    if done.returncode != 0:
        raise IdentityError(f"the guest does not take our agent: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _wait_until_idle(process: GuardedProcess, timeout: float) -> None:
    """Wait until the hypervisor hardly uses a CPU, so that no restored guest has to end what this one began."""
    assert process.pid is not None
    end = time.monotonic() + timeout
    quiet = 0
    try:
        measured = psutil.Process(process.pid)
        while quiet < _IDLE_LOOKS and time.monotonic() < end:
            before = sum(measured.cpu_times()[:2])
            time.sleep(_IDLE_LOOK_SECONDS)
            used = sum(measured.cpu_times()[:2]) - before
            quiet = quiet + 1 if used < _IDLE_SHARE * _IDLE_LOOK_SECONDS else 0
    except psutil.Error as error:
        raise HypervisorExited(
            f"the hypervisor ended while its guest came to rest; its words: {process.output()}"
        ) from error
