"""What a bundle states of the LANs of its guests, as plain data. Another person may have written it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Interface
from typing import Any, Self

from pytest_xhyve.formats.bundle_file import DamagedBundle
from pytest_xhyve.model.lan import LanCard, LanPlace
from pytest_xhyve.model.link import LinkState

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_MOST_HOSTS = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedLan:
    """A LAN.

    Attributes:
        name: its name; LANs of different clusters may have the same.
        links: what the test has changed on the ways between its guests.
    """

    name: str
    links: tuple[LinkState, ...]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The object of which `dataclasses.asdict` made *content*.

        Raises:
            DamagedBundle: something in it has an impossible value.
        """
        try:
            lan = cls(content["name"], tuple(map(LinkState.from_dict, content["links"])))
            names = [lan.name, *(name for link in lan.links for name in (link.source, link.target))]
            if not all(map(_NAME.fullmatch, names)):
                raise ValueError("a name")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedBundle(f"is damaged: its description of a LAN is not valid ({error})") from error
        return lan

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SavedCard:
    """A guest's card on a LAN.

    Attributes:
        lan: the number of the LAN, as the bundle lists them.
        address: the guest's address there, and the network's size.
        is_pulled: whether the test has pulled its cable.
    """

    lan: int
    address: str
    is_pulled: bool


@dataclass(frozen=True, slots=True)
class SavedPlace:
    """The place of a guest on LANs.

    Attributes:
        name: its name there.
        cards: its cards.
        hosts: see `pytest_xhyve.model.lan.LanPlace`.
    """

    name: str
    cards: tuple[SavedCard, ...]
    hosts: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The object of which `dataclasses.asdict` made *content*.

        Raises:
            KeyError, TypeError, ValueError: something in it has an impossible value.
        """
        place = cls(content["name"], tuple(SavedCard(**card) for card in content["cards"]), content["hosts"])
        for card in place.cards:
            IPv4Interface(card.address)
            if type(card.lan) is not int or card.lan < 0 or not isinstance(card.is_pulled, bool):
                raise ValueError("a card")
        if not _NAME.fullmatch(place.name) or not isinstance(place.hosts, str) or len(place.hosts) > _MOST_HOSTS:
            raise ValueError("a place")
        return place

    def on(self, lans: Sequence[SavedLan]) -> LanPlace:
        """This place, on the LANs of its bundle."""
        cards = tuple(LanCard(lans[card.lan].name, IPv4Interface(card.address)) for card in self.cards)
        return LanPlace(cards, self.hosts)
