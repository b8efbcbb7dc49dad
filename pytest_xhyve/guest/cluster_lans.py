"""The LANs of a cluster: the switch of each, and what a test has done to the links between the guests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_xhyve.guest.fault_notes import LINK, NETWORK
from pytest_xhyve.guest.lans import no_switch
from pytest_xhyve.model.errors import ConfigurationError, NotSupported
from pytest_xhyve.model.link import Impairment

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.lan.switch import Links, Switch


class ClusterLans:
    """The LANs of a cluster.

    Args:
        guests: each guest, by its name.
        switches: the switch of each LAN, by the LAN's name.
    """

    def __init__(self, guests: Mapping[str, Guest], switches: Mapping[str, Switch]) -> None:
        self._guests = guests
        self._switches = switches

    def block(self, links: Links, *, both_ways: bool, blocked: bool = True) -> None:
        """Let no frame pass on *links*, or let frames pass again.

        Raises:
            LanFailed: a switch has died.
        """
        self._check_switches()
        for switch, ways in self._ways(links, both_ways=both_ways):
            switch.block(ways, blocked=blocked)
        self._note(links, "cut" if blocked else None, both_ways=both_ways)

    def impair(self, links: Links, impairment: Impairment, *, both_ways: bool, seed: int) -> None:
        """Set what happens to the frames on *links*.

        Raises:
            LanFailed: a switch has died.
        """
        self._check_switches()
        for switch, ways in self._ways(links, both_ways=both_ways):
            switch.impair(ways, impairment, seed=seed)
        self._note(links, str(impairment) or None, both_ways=both_ways)

    def heal(self) -> None:
        """End what `block`, `impair` and `Guest.network` have done.

        Raises:
            LanFailed: a switch has died.
        """
        for switch in self._switches.values():
            switch.heal()
        for guest in self._guests.values():
            for place in (*map(_place, self._guests), NETWORK):
                guest._faults.note(place, None)

    def find(self, lan: str | None) -> Switch:
        """The switch of the LAN with this name; of the only LAN if *lan* is None.

        Raises:
            ConfigurationError: there is no such LAN, or several and *lan* is None.
            NotSupported: the guests are on the common network of their hypervisor.
        """
        self._check_switches()
        if lan is None and len(self._switches) == 1:
            return next(iter(self._switches.values()))
        switch = None if lan is None else self._switches.get(lan)
        if switch is None:
            known = ", ".join(self._switches)
            problem = "give lan=, as the cluster has several LANs" if lan is None else f"the cluster has no LAN {lan!r}"
            raise ConfigurationError(f"{problem} (known: {known})")
        return switch

    def keep(self) -> None:
        """Keep the LANs of kept guests."""
        kept = {name for name, guest in self._guests.items() if guest._instance.process.is_kept}
        for switch in self._switches.values():
            if switch.members & kept:
                switch.keep()

    def _check_switches(self) -> None:
        if not self._switches:
            raise NotSupported(no_switch(next(iter(self._guests.values())).hypervisor.name))

    def _ways(self, links: Links, *, both_ways: bool) -> Iterator[tuple[Switch, Links]]:
        """For each LAN's switch, those of *links* of which both guests are on the LAN."""
        ways = [*links, *((b, a) for a, b in links)] if both_ways else links
        for switch in self._switches.values():
            on_it = [way for way in ways if switch.members.issuperset(way)]
            if on_it:
                yield switch, on_it

    def _note(self, links: Links, fault: str | None, *, both_ways: bool) -> None:
        """Note *fault* for the report of the guests that send, and for errors of commands in them."""
        for a, b in links:
            self._guests[a]._faults.note(_place(b), fault)
            if both_ways:
                self._guests[b]._faults.note(_place(a), fault)


def _place(other: str) -> str:
    """Where the faults of the way to the guest *other* are, for a report."""
    return LINK.format(other)
