"""Pictures of a guest's screen."""

from __future__ import annotations

from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.machine import Machine


def take(name: str, machine: Machine, vm: VirtualMachine) -> bytes:
    """The contents of the screen of the guest *name*, as a PNG file.

    Raises:
        NotSupported: the guest has no graphics card.
        XhyveError: the guest is off.
    """
    if not machine.graphics:
        raise NotSupported(
            f"guest {name} has no graphics card, so it has no screen\n"
            '  firmware="bios" or "uefi" gives it one, and so does graphics=True in the hook pytest_xhyve_machine'
        )
    return vm.screenshot()
