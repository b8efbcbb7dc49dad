"""Build a template: boot a guest, wait until its units have started, install the agent, save the idle guest."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import psutil

from pytest_xhyve.guest.growth import grow_root
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.waits import wait_for_units
from pytest_xhyve.host.clone import overlay_disk
from pytest_xhyve.host.disk_size import create_empty_disks, enlarge
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.host.layer_file import relative_to_cache
from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited
from pytest_xhyve.model.machine import Disk, Machine
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent
from pytest_xhyve.templates.starts import record

SYNC_SECONDS = 120.0
"""The limit for what a guest has to write to its disks before it is saved."""

_IDLE_SHARE = 0.1
_IDLE_LOOK_SECONDS = 0.25
_IDLE_LOOKS = 3
_INSTALL_SECONDS = 60.0


def build_template(instance: Instance, machine: Machine, folder: Path) -> tuple[tuple[Disk, ...], AgentState]:
    """Boot a guest, wait until it is idle, and save it.

    Args:
        instance: the template's instance, with a process of its own.
        machine: a machine with a template's identity and no disks; this function makes the disks.
        folder: an empty folder, which gets the saved state.

    Returns:
        the disks in the state in which the guest was saved, and what the agent in the guest holds open.

    Raises:
        IdentityError: the plugin cannot give a restored guest of this image its own identity.
        XhyveError: the guest does not boot, or cannot be saved.
    """
    image, sizes, formats = instance.image, instance.disk_sizes, instance.hypervisor.disk_formats
    root = overlay_disk(Disk(image.disk, image.format), folder, formats, name=relative_to_cache(image.disk, folder))
    if sizes.root is not None:
        enlarge(root, sizes.root)
    disks = (root, *create_empty_disks(sizes.empty, folder, formats))
    machine = replace(machine, disks=disks)
    guest = Guest(instance, machine, boot=lambda recorded: record(instance, recorded, folder))
    try:
        guest._boot_or_restore()
        if sizes.root is not None:
            grow_root(guest, instance.timeouts.step)
        wait_for_units(guest.run, instance.timeouts.settle)
        vm = cast("SnapshotMachine", guest._power.machine)
        agent = install_agent(
            partial(run_as_root, guest),
            instance.architecture,
            vm.agent,
            guest.mac,
            machine.lan_macs,
            instance.timeouts.step,
        )
        guest.run("sync", check=False, timeout=SYNC_SECONDS)
        guest.ssh.close()
        _wait_until_idle(instance.process, instance.timeouts.settle)
        vm.save()
        shutil.copyfile(guest.console.path, folder / CONSOLE)
    finally:
        guest.kill()
    return disks, agent


def run_as_root(guest: Guest, line: str, data: bytes) -> str:
    """Run a shell line in *guest* for `install_agent`, with *data* as standard input; return its standard output.

    Raises:
        IdentityError: the exit code is not 0.
    """
    done = guest.run(line, check=False, timeout=_INSTALL_SECONDS, input=data, user="root")
    if done.returncode != 0:
        raise IdentityError(f"cannot install the agent in the guest: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _wait_until_idle(process: GuardedProcess, timeout: float) -> None:
    """Wait until the hypervisor hardly uses a CPU; work that the guest has not completed, each restored one repeats."""
    assert process.pid is not None
    end = monotonic() + timeout
    quiet = 0
    try:
        measured = psutil.Process(process.pid)
        while quiet < _IDLE_LOOKS and monotonic() < end:
            before = sum(measured.cpu_times()[:2])
            time.sleep(_IDLE_LOOK_SECONDS)
            used = sum(measured.cpu_times()[:2]) - before
            quiet = quiet + 1 if used < _IDLE_SHARE * _IDLE_LOOK_SECONDS else 0
    except psutil.Error as error:
        raise HypervisorExited(
            f"the hypervisor exited before its guest was idle; its output: {process.output() or '(no output)'}"
        ) from error
