"""What only some hypervisors can do for a guest."""

from __future__ import annotations

from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.spec import GuestSpec


def check_supported(spec: GuestSpec, start: str, hypervisor: Hypervisor) -> None:
    """Raise `NotSupported` if the guest needs something that the hypervisor cannot do."""
    name = hypervisor.info.name
    if hypervisor.snapshotter is None and start == "warm":
        raise NotSupported(
            f"{name} cannot save a running machine, so it cannot restore guests (start=warm)\n"
            "  use --xhyve-hypervisor=qemu, or --xhyve-start=auto, which boots guests if they cannot be restored"
        )
    if hypervisor.snapshotter is None and spec.reset:
        raise NotSupported(
            f"{name} cannot save a running machine, so it cannot reset guests (reset=True)\n"
            "  use --xhyve-hypervisor=qemu"
        )
    if spec.power_cuts and not hypervisor.changes_disks:
        raise NotSupported(f"{name} cannot record what a guest writes (power_cuts=True)\n  use --xhyve-hypervisor=qemu")


def check_takes_layers(hypervisor: Hypervisor) -> None:
    """Raise `NotSupported` if no guest of *hypervisor* can have a layer as its disk."""
    if "qcow2" not in hypervisor.disk_formats:
        raise NotSupported(
            f"{hypervisor.info.name} has no layers: the image of a recipe is a qcow2 file over another image\n"
            "  QEMU takes it: --xhyve-hypervisor=qemu"
        )
