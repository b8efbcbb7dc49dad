"""What every start of one guest has in common."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_xhyve.guest.events import Events
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import Hypervisor, Snapshotter
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class Instance:
    """One guest, apart from its machine: a power cut or a reset changes the machine, and nothing of this.

    Attributes:
        image: what the guest is cloned from, and how to log in.
        hypervisor: runs the guest.
        process: the guest's place with the guardian: its folder, its slot and its hypervisor's process.
        timeouts: how long each step may take.
        events: gets what happens to the guest.
    """

    image: Image
    hypervisor: Hypervisor
    process: GuardedProcess
    timeouts: Timeouts
    events: Events

    @property
    def snapshotter(self) -> Snapshotter:
        """What saves and restores machines; use it only where the hypervisor has one."""
        snapshotter = self.hypervisor.snapshotter
        assert snapshotter is not None
        return snapshotter
