"""The objects that all starts of one guest share."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.lans import NO_LANS, GuestLans
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import Hypervisor, Snapshotter
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import DiskSizes
from pytest_xhyve.model.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class Instance:
    """What belongs to one guest apart from its machine: a power cut or a reset changes only the machine.

    Attributes:
        image: the image that the guest is cloned from; it also states how to log in.
        hypervisor: runs the guest.
        process: what the guardian owns for the guest: its folder, its slot and its hypervisor's process.
        timeouts: the limit of each step.
        events: the listener for the guest's events.
        disk_sizes: the sizes of the guest's disks.
        lans: the LANs that the guest is on.
    """

    image: Image
    hypervisor: Hypervisor
    process: GuardedProcess
    timeouts: Timeouts
    events: Events
    disk_sizes: DiskSizes = field(default_factory=DiskSizes)
    lans: GuestLans = NO_LANS

    @property
    def snapshotter(self) -> Snapshotter:
        """The part of the hypervisor that saves and restores machines; call this only if the hypervisor has one."""
        snapshotter = self.hypervisor.snapshotter
        assert snapshotter is not None
        return snapshotter
