"""What a preparation needs of the run that it happens in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.model.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a preparation needs of the run that it happens in.

    Attributes:
        home: the cache folder.
        hypervisor: runs the guests.
        timeouts: the limits of each step of a guest.
        events: the listener for what happens.
        guard: returns a process of the guardian for a guest with this name and image.
        folder: the run's folder.
    """

    home: Home
    hypervisor: Hypervisor
    timeouts: Timeouts
    events: Events
    guard: Callable[[str, Image], AbstractContextManager[GuardedProcess]]
    folder: Path

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for temporary files. If this process is killed, it is removed with the run's folder."""
        path = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def booted(self, name: str, image: Image, *disks: Disk) -> Iterator[Guest]:
        """A guest that boots with *disks*, and is powered off at the end of the block.

        No test uses it, so it has no slot, and a random UUID.

        Raises:
            BootFailed: the guest did not boot.
        """
        with self.guard(name, image) as process:
            identity = self.hypervisor.identify(_random_uuids())
            machine = Machine(
                name=name,
                uuid=identity.uuid,
                cpus=image.cpus,
                cpu=image.cpu,
                memory=image.memory,
                disks=disks,
                nics=(Nic(identity.mac),),
                kernel=image.kernel,
                initrd=image.initrd,
                cmdline=image.cmdline,
                graphics=image.firmware is not None,
                firmware=image.firmware,
            )
            guest = Guest(Instance(image, self.hypervisor, process, self.timeouts, self.events), machine)
            guest._boot_or_restore()
            try:
                yield guest
            finally:
                guest._switch_off()


def _random_uuids() -> Iterator[UUID]:
    while True:
        yield uuid4()
