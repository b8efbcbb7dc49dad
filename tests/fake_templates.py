"""Templates without a guest."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

from pytest_xhyve.hypervisors.base import SnapshotMachine
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.templates.identity import AgentState
from pytest_xhyve.templates.key import identity_parameters

PREPARED = AgentState(random=3, socket=4, interface="eth0", machine_id=-1)
FILES = ["disk.qcow2", "ram", "state", "identity.json"]


def quiet(line: str) -> None:
    """Nobody listens."""


def fill(workspace: Path, size: int = 1 << 16) -> tuple[Disk, ...]:
    for name in FILES:
        (workspace / name).write_bytes(os.urandom(size))
    return (Disk(workspace / "disk.qcow2", "qcow2"),)


class FakeSnapshotter:
    """Says what its machines depend on, and saves none."""

    def __init__(self, **depends: str) -> None:
        self._depends = depends

    def depends_on(self, machine: Machine) -> dict[str, str]:
        return {"hypervisor": "qemu 7.2.0", "computer": f"-smp {machine.cpus}", **self._depends}

    def start_recorded(self, *_: Any) -> AbstractContextManager[SnapshotMachine]:
        raise NotImplementedError

    def start_waiting(self, *_: Any, has_agent: bool) -> AbstractContextManager[SnapshotMachine]:
        raise NotImplementedError

    def start_restored(self, *_: Any) -> AbstractContextManager[SnapshotMachine]:
        raise NotImplementedError


def named(image: Image, name: str, uuid: UUID, mac: str) -> Machine:
    return Machine(
        name=name,
        uuid=uuid,
        cpus=1,
        cpu="x86-64-v2",
        memory=64 << 20,
        disks=(),
        nics=(Nic(mac),),
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=" ".join([image.cmdline, *identity_parameters(name, uuid)]),
    )
