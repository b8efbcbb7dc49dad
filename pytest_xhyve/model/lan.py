"""The places of guests on LANs: their addresses, and the names by which they find each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface

from pytest_xhyve.model.machine import MAX_LANS

DEFAULT_LAN = "lan"
"""The name of the one LAN of a cluster that states none."""

# LANs of different clusters can have the same addresses: no frame passes from one to another.
_NETWORKS = "192.168.{}.{}/24"
_FIRST_NETWORK = 77
MAX_GUESTS_ON_LANS = 254
"""How many addresses for guests each LAN has."""
MAX_LANS_OF_CLUSTER = 256 - _FIRST_NETWORK
"""How many LANs a cluster can have."""

assert MAX_LANS <= MAX_LANS_OF_CLUSTER


@dataclass(frozen=True, slots=True)
class LanCard:
    """A guest's card on a LAN.

    Attributes:
        lan: the LAN's name.
        address: the guest's address there, and the network's size.
    """

    lan: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class LanPlace:
    """The place of one guest.

    Attributes:
        cards: its cards, in the order of its LANs.
        hosts: a line for each guest of the cluster, with its address and its names (hosts(5)).
    """

    cards: tuple[LanCard, ...]
    hosts: str


def lan_places(guests: Sequence[str], lans: Mapping[str, Sequence[str]]) -> dict[str, LanPlace]:
    """The place of each of *guests*.

    A guest has the same last number in its address on each LAN. Its name stands for its address on the first LAN that
    it shares with the reader; ``NAME.LAN`` stands for that on any of its LANs.

    Args:
        guests: the names of all guests of a cluster.
        lans: the guests on each LAN, by the LAN's name.
    """
    cards: dict[str, list[LanCard]] = {guest: [] for guest in guests}
    for network, (lan, members) in enumerate(lans.items(), _FIRST_NETWORK):
        for guest in members:
            address = IPv4Interface(_NETWORKS.format(network, guests.index(guest) + 1))
            cards[guest].append(LanCard(lan, address))
    return {guest: LanPlace(tuple(own), _hosts(own, cards)) for guest, own in cards.items()}


def common_places(lan: str, addresses: Mapping[str, str]) -> dict[str, LanPlace]:
    """The place of each guest on the one network of its hypervisor, which gives the addresses.

    Args:
        lan: the name that the cluster has for it.
        addresses: the IPv4 address of each guest, by its name.
    """
    cards = {guest: [LanCard(lan, IPv4Interface(address))] for guest, address in addresses.items()}
    return {guest: LanPlace(tuple(own), _hosts(own, cards)) for guest, own in cards.items()}


def _hosts(own: Sequence[LanCard], cards: Mapping[str, Sequence[LanCard]]) -> str:
    reachable = {card.lan for card in own}
    lines = []
    for guest, others in cards.items():
        shared = [card for card in others if card.lan in reachable]
        for card in others:
            names = [guest] if card is (shared or others)[0] else []
            lines.append(" ".join([str(card.address.ip), *names, f"{guest}.{card.lan}"]))
    return "".join(f"{line}\n" for line in lines)
