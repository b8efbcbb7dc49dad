"""What a preparation needs of the run that it happens in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID, uuid4

from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk, Machine, Nic
from pytest_xhyve.model.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a preparation needs of the run that it happens in. No test uses its guests, so they have no slot.

    Attributes:
        home: the plugin's folder.
        hypervisor: runs the guests.
        timeouts: how long each step of a guest may take.
        events: gets what happens.
        guard: a process of the guardian for a guest of this name and image.
    """

    home: Home
    hypervisor: Hypervisor
    timeouts: Timeouts
    events: Events
    guard: Callable[[str, Image], AbstractContextManager[GuardedProcess]]

    def instance(self, image: Image, process: GuardedProcess) -> Instance:
        """What the starts of one guest have in common."""
        return Instance(image, self.hypervisor, process, self.timeouts, self.events)

    def machine(self, name: str, image: Image, disks: tuple[Disk, ...], memory: int | None = None) -> Machine:
        """A machine of *image* with *disks* and a random identity."""
        identity = self.hypervisor.identify(_random_uuids())
        return Machine(
            name=name,
            uuid=identity.uuid,
            cpus=image.cpus,
            cpu=image.cpu,
            memory=memory or image.memory,
            disks=disks,
            nics=(Nic(identity.mac),),
            kernel=image.kernel,
            initrd=image.initrd,
            cmdline=image.cmdline,
        )


def _random_uuids() -> Iterator[UUID]:
    while True:
        yield uuid4()
