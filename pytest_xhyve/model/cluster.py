"""The cluster that a marker or a factory call requests: guests that start together, and the LANs between them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.lan import DEFAULT_LAN, MAX_GUESTS_ON_LANS, MAX_LANS_OF_CLUSTER
from pytest_xhyve.model.machine import MAX_LANS
from pytest_xhyve.model.spec import GuestSpec, parse_host_name
from pytest_xhyve.model.values import parse_positive_int, short_repr, suggest

_NODES, _LANS, _RESET = "nodes", "lans", "reset"
_LOCALHOST = "localhost"


@dataclass(frozen=True)
class ClusterSpec:
    """The guests of a cluster, and its LANs.

    Attributes:
        guests: what each guest is made of, by its name.
        lans: the names of the guests on each LAN, by the LAN's name.
        reset: whether each test gets the shared cluster in the state in which the fixtures left it.
    """

    guests: Mapping[str, GuestSpec]
    lans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reset: bool = False

    @classmethod
    def parse(cls, **keys: Any) -> ClusterSpec:
        """A cluster from keyword arguments as users write them.

        Args:
            keys: a guest's name, and its image, or a dict of the keys of a guest; or ``nodes=3`` for guests named
                ``node1``, ``node2`` and so on. ``lans`` is a dict of LANs with the names of their guests; without it,
                all guests are on one LAN. ``reset`` is True or False.

        Raises:
            ConfigurationError: a name is not a host name, a key is unknown, or a value is invalid.
        """
        keys = dict(keys)
        lans, reset, nodes = keys.pop(_LANS, None), keys.pop(_RESET, None), keys.pop(_NODES, None)
        if nodes is not None:
            if keys:
                raise ConfigurationError(f"give nodes=, or guests by their names ({', '.join(keys)}), but not both")
            keys = {f"node{number + 1}": None for number in range(_parse_count(nodes))}
        if not keys:
            raise ConfigurationError('a cluster needs guests: server="debian12", client="tiny", or nodes=3')
        _check_count(len(keys))
        _check_names(keys)
        guests = {name: _parse_guest(name, value) for name, value in keys.items()}
        if not isinstance(reset, bool | None):
            raise ConfigurationError(f"reset: {short_repr(reset)} is not True or False")
        return cls(guests, _parse_lans(lans, list(guests)), bool(reset))

    def with_defaults(self, other: GuestSpec) -> ClusterSpec:
        """A copy of this cluster whose guests take the value of *other* for each None."""
        return replace(self, guests={name: spec.with_defaults(other) for name, spec in self.guests.items()})

    def anchored(self, folder: Path) -> ClusterSpec:
        """A copy of this cluster whose shares are absolute paths; relative ones are those of *folder*."""
        return replace(self, guests={name: spec.anchored(folder) for name, spec in self.guests.items()})

    def lans_of(self, guest: str) -> list[str]:
        """The names of the LANs that *guest* is on."""
        return [lan for lan, members in self.lans.items() if guest in members]


def _parse_count(value: Any) -> int:
    try:
        count = parse_positive_int(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_NODES}: {error}") from error
    _check_count(count)
    return count


def _check_count(count: int) -> None:
    if count > MAX_GUESTS_ON_LANS:
        raise ConfigurationError(f"{count} guests are too many; a LAN has {MAX_GUESTS_ON_LANS} addresses")


def _check_names(names: Mapping[str, Any]) -> None:
    known: dict[str, str] = {}
    for name in names:
        parse_host_name(name)
        if name.lower() == _LOCALHOST:
            raise ConfigurationError(f"a guest cannot have the name {name}, by which each guest finds itself")
        if name.lower() in known:
            raise ConfigurationError(
                f"the guests {known[name.lower()]} and {name} differ in case only, which host names do not (RFC 4343)"
            )
        known[name.lower()] = name


def _parse_guest(name: str, value: Any) -> GuestSpec:
    is_image = isinstance(value, str | os.PathLike | Image)
    if value is not None and not is_image and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name}: {short_repr(value)} is not a guest; give an image, or a dict such as "
            '{"image": "tiny", "memory": "1G"}'
        )
    keys = {"image": value} if value is None or is_image else dict(value)
    for key, instead in (("name", "its name is the key"), (_RESET, "give reset=True for the whole cluster")):
        if key in keys:
            raise ConfigurationError(f"{name}: a guest of a cluster has no key {key!r}; {instead}")
    try:
        return GuestSpec.parse(**{**keys, "name": name})
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _parse_lans(value: Any, guests: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {DEFAULT_LAN: tuple(guests)}
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(f'lans: {short_repr(value)} is not a dict; write {{"front": ["a", "b"]}}')
    if len(value) > MAX_LANS_OF_CLUSTER:
        raise ConfigurationError(f"lans: {len(value)} are too many; a cluster can have {MAX_LANS_OF_CLUSTER}")
    lans = {parse_host_name(lan): _parse_members(lan, members, guests) for lan, members in value.items()}
    for guest in guests:
        number = sum(guest in members for members in lans.values())
        if number > MAX_LANS:
            raise ConfigurationError(f"lans: guest {guest} is on {number} LANs; a guest can be on {MAX_LANS}")
        if not number:
            raise ConfigurationError(f"lans: guest {guest} is on no LAN; add it to one, or remove it")
    return lans


def _parse_members(lan: str, members: Any, guests: Sequence[str]) -> tuple[str, ...]:
    if isinstance(members, str) or not isinstance(members, Sequence) or not members:
        raise ConfigurationError(f"lans: {lan}: {short_repr(members)} is not a list of guests")
    for member in members:
        if member not in guests:
            hint = suggest(member, guests) if isinstance(member, str) else ""
            raise ConfigurationError(
                f"lans: {lan}: the cluster has no guest {short_repr(member)}{hint} (known: {', '.join(guests)})"
            )
    if len(set(members)) < len(members):
        raise ConfigurationError(f"lans: {lan}: a guest is listed twice in {short_repr(list(members))}")
    return tuple(members)
