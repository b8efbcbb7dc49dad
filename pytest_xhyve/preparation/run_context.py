"""What a preparation needs of the run that it happens in."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from pytest_xhyve.guest.boot_errors import note_console
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
        hypervisor_for: returns the hypervisor for guests of an image, or of the run's default image for None.
        timeouts_for: returns the limits of each step of such a guest.
        events: the listener for what happens.
        guard: returns a process of the guardian for a guest with this name and image.
        folder: the run's folder.
    """

    home: Home
    hypervisor_for: Callable[[Image | None], Hypervisor]
    timeouts_for: Callable[[Image | None], Timeouts]
    events: Events
    guard: Callable[[str, Image], AbstractContextManager[GuardedProcess]]
    folder: Path

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor for guests of the run's default image."""
        return self.hypervisor_for(None)

    @property
    def timeouts(self) -> Timeouts:
        """The limits of each step of such a guest."""
        return self.timeouts_for(None)

    def instance(self, image: Image, process: GuardedProcess) -> Instance:
        """What a guest of *image* in *process* has apart from its machine."""
        return Instance(image, self.hypervisor_for(image), process, self.timeouts_for(image), self.events)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """A folder for temporary files. If this process is killed, it is removed with the run's folder."""
        path = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def booted(self, name: str, image: Image, *disks: Disk, cpus: int | None = None) -> Iterator[Guest]:
        """A guest that boots with *disks*, and is powered off at the end of the block.

        No test uses it, so it has no slot, and a random UUID. It has as many *cpus* as the image states, or another
        number.

        Raises:
            BootFailed: the guest did not boot.
        """
        with self.guard(name, image) as process:
            instance = self.instance(image, process)
            identity = instance.hypervisor.identify(_random_uuids())
            machine = Machine(
                name=name,
                uuid=identity.uuid,
                cpus=cpus or image.cpus,
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
            guest = Guest(instance, machine)
            guest._boot_or_restore()
            try:
                yield guest
            except BaseException as error:
                note_console(error, f"guest {name} was running meanwhile", guest.console)
                raise
            finally:
                guest._switch_off()


def _random_uuids() -> Iterator[UUID]:
    while True:
        yield uuid4()
