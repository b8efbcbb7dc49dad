"""What the coming tests will ask for, as far as it can be told before they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.machine_hook import changes_machines
from pytest_xhyve.plugin.pytest_internals import fixture_names, parameters
from pytest_xhyve.plugin.wanted import OWNERS, is_ours, owner, wanted

# A suite may have thousands of tests without a guest, and this is asked before each.
_LOOK_AHEAD = 100


@dataclass(frozen=True)
class ExpectedGuest:
    """A guest that a test is going to ask for.

    Attributes:
        fixture: by which it asks.
        node: whose guest it is: the test's own, or its class's, module's or session's.
        param: the fixture's parameter; with another one, a shared guest is another.
        spec: what it will be made of, or None where that cannot be told.
    """

    fixture: str
    node: Any
    param: Any
    spec: GuestSpec | None


class Forecast:
    """Which guests this process will be asked for, from the test that runs now on.

    Nothing here is certain: a test may be skipped, or be run by another process. What has an explicit name, or an
    image that a conftest.py chooses, is not guessed at all, and neither is what a conftest.py changes.
    """

    def __init__(self) -> None:
        self._places: dict[pytest.Item, int] = {}
        self._shared: dict[str, ExpectedGuest] = {}
        self.specs: list[GuestSpec] = []

    def update(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[GuestSpec]:
        """What *item*, which is about to be set up, and those after it will ask for, in their order.

        Args:
            item: a test.
            nextitem: the one that this process runs after it; None at the end.
        """
        now = self._guess(item, self._shared)
        shared = dict(self._shared)
        later = (self._guess(coming, shared) for coming in self._after(nextitem))
        self.specs = [guest.spec for guest in chain(now, *later) if guest.spec is not None]
        return self.specs

    def _after(self, nextitem: pytest.Item | None) -> Sequence[pytest.Item]:
        """*nextitem* and what follows it; under pytest-xdist, only the first is sure to run here."""
        if nextitem is None:
            return ()
        items = nextitem.session.items
        if nextitem not in self._places:
            self._places = {known: place for place, known in enumerate(items)}
        place = self._places.get(nextitem)
        return (nextitem,) if place is None else items[place : place + _LOOK_AHEAD]

    def _guess(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> list[ExpectedGuest]:
        guests = list(self._new(item, shared))
        is_changed = bool(guests) and changes_machines(item)
        return [] if is_changed else guests

    def _new(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> Iterator[ExpectedGuest]:
        """What *item* asks for that is not among the *shared* guests, which are brought to the state after it."""
        for fixture, known in list(shared.items()):
            if known.node not in item.listchain():
                # Taken away with the class or module.
                del shared[fixture]
        for guest in _expected(item):
            if guest.node is not item:
                before = shared.get(guest.fixture)
                if before is not None and (before.node, before.param) == (guest.node, guest.param):
                    continue
                shared[guest.fixture] = guest
            yield guest


def _expected(item: pytest.Item) -> Iterator[ExpectedGuest]:
    asked = fixture_names(item)
    if OWNERS.keys().isdisjoint(asked) or item.get_closest_marker("skip") is not None:
        return
    params = parameters(item)
    for fixture in OWNERS:
        if fixture in asked and is_ours(item, fixture):
            yield ExpectedGuest(fixture, owner(item, fixture), params.get(fixture), _spec(item, fixture))


def _spec(item: pytest.Item, fixture: str) -> GuestSpec | None:
    try:
        spec = wanted(item, fixture)
    except XhyveError:
        # The test itself reports what is wrong.
        return None
    return spec if spec is not None and spec.name is None and not spec.reset else None
