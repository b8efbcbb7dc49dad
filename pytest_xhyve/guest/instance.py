"""The objects that all starts of one guest share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.lans import NO_LANS, GuestLans
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import Hypervisor, SnapshotMachine, Snapshotter
from pytest_xhyve.model.architecture import Architecture, architecture_of
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import DiskSizes
from pytest_xhyve.model.timeouts import Timeouts

if TYPE_CHECKING:
    from pytest_xhyve.guest.agent import Agent
    from pytest_xhyve.guest.shares import GuestShares


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
        shares: the folders of the host that the guest has, too; None for none.
    """

    image: Image
    hypervisor: Hypervisor
    process: GuardedProcess
    timeouts: Timeouts
    events: Events
    disk_sizes: DiskSizes = field(default_factory=DiskSizes)
    lans: GuestLans = NO_LANS
    shares: GuestShares | None = None

    @property
    def architecture(self) -> Architecture:
        """The architecture of the guest's processor."""
        return architecture_of(self.image.arch)

    def agent(self, vm: SnapshotMachine, timeout: float | None = None) -> Agent:
        """The agent of the guest in *vm*; *timeout* is the limit of an answer, in seconds, if it is not a step's."""
        # A guest that boots does not need it.
        from pytest_xhyve.guest.agent import Agent  # noqa: PLC0415

        return Agent(vm.agent, self.architecture, self.timeouts.step if timeout is None else timeout)

    @property
    def snapshotter(self) -> Snapshotter:
        """The part of the hypervisor that saves and restores machines; call this only if the hypervisor has one."""
        snapshotter = self.hypervisor.snapshotter
        assert snapshotter is not None
        return snapshotter
