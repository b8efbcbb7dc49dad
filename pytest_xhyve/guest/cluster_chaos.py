"""The faults of a series for a cluster: those of its LANs, and those of any of its guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import Any, Protocol

from pytest_xhyve.guest import chaos
from pytest_xhyve.guest.cluster_lans import ClusterLans

_ONE_WAY_SHARE = 0.3


class _Guests(Protocol):
    """The part of `pytest_xhyve.Guests` that this module uses."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __getitem__(self, name: str) -> chaos.ChaosGuest: ...

    def link(
        self, one: Any, other: Any, *, latency: Any = ..., jitter: Any = ..., loss: Any = ..., seed: int = ...
    ) -> None: ...

    @property
    def _lans(self) -> ClusterLans: ...


@contextmanager
def _partition(guests: _Guests, random: Random) -> Iterator[None]:
    names = random.sample(guests.names, len(guests.names))
    place = random.randint(1, len(names) - 1)
    ways = [(one, other) for one in names[:place] for other in names[place:]]
    both_ways = random.random() >= _ONE_WAY_SHARE
    guests._lans.block(ways, both_ways=both_ways)
    try:
        yield
    finally:
        guests._lans.block(ways, both_ways=both_ways, blocked=False)


@contextmanager
def _slow_link(guests: _Guests, random: Random) -> Iterator[None]:
    one, other = random.sample(guests.names, 2)
    latency = random.choice((0.02, 0.1, 0.5))
    guests.link(one, other, latency=latency, jitter=latency / 4)
    try:
        yield
    finally:
        guests.link(one, other)


@contextmanager
def _lossy_link(guests: _Guests, random: Random) -> Iterator[None]:
    one, other = random.sample(guests.names, 2)
    guests.link(one, other, loss=random.choice((0.02, 0.1, 0.3)), seed=random.getrandbits(32))
    try:
        yield
    finally:
        guests.link(one, other)


_OF_LANS: Mapping[str, Callable[[_Guests, Random], AbstractContextManager[None]]] = {
    "partition": _partition,
    "slow link": _slow_link,
    "lossy link": _lossy_link,
}

KINDS = (*_OF_LANS, *chaos.FAULTS)
"""All kinds of faults."""

USUAL = (*_OF_LANS, *chaos.USUAL)
"""Those that a correct program survives without losing what it has acknowledged."""


def inject(guests: _Guests, name: str, random: Random) -> AbstractContextManager[None]:
    """Inject the fault *name* for the time of a block: into a LAN, or into a guest that *random* chooses."""
    of_lan = _OF_LANS.get(name)
    return chaos.FAULTS[name](guests[random.choice(guests.names)], random) if of_lan is None else of_lan(guests, random)
