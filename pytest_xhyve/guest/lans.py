"""A guest's cables: each start of its machine plugs them into the switches of its LANs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.lan import LanPlace

if TYPE_CHECKING:
    from pytest_xhyve.lan.switch import Switch


@dataclass(frozen=True, slots=True)
class GuestLans:
    """The LANs that a guest is on.

    Attributes:
        name: the guest's name on them.
        place: its addresses there; None if it is on no LAN.
        switches: the switch of each of its LANs, in the order of its cards.
    """

    name: str = ""
    place: LanPlace | None = None
    switches: Sequence[Switch] = ()

    @property
    def names(self) -> list[str]:
        """The names of the LANs."""
        return [] if self.place is None else [card.lan for card in self.place.cards]

    def connect(self, vm: VirtualMachine) -> None:
        """Plug the cables of *vm*, which has just started, into the switches; cut those that are not used."""
        for number, end in enumerate(vm.lan_ends):
            with closing(end):
                if number < len(self.switches):
                    self.switches[number].connect(self.name, end)

    def link_up(self, vm: VirtualMachine) -> None:
        """Let the guest see its cables, unless its start has pulled them."""
        for number in range(len(self.switches)):
            if not vm.is_lan_cable_pulled(number):
                vm.set_lan_link(number, up=True)

    def check(self) -> None:
        """Raise an error if a switch has died.

        Raises:
            LanFailed: a switch has died.
        """
        for switch in self.switches:
            switch.check()


def no_switch(hypervisor: str) -> str:
    """Why nothing can be done to the frames between guests of *hypervisor*; a text for `NotSupported`."""
    return (
        f"{hypervisor} has no switch of the plugin's between its guests, so their links cannot be cut, slowed down or "
        "captured\n  use --xhyve-hypervisor=qemu"
    )


NO_LANS = GuestLans()
"""Those of a guest that is on no LAN."""
