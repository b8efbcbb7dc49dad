"""Expected guests: what the next tests will ask for, as far as this is known before they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.machine_hook import has_machine_hook
from pytest_xhyve.plugin.pytest_internals import fixture_names, parameters
from pytest_xhyve.plugin.wanted import OWNERS, guest_owner, is_plugin_fixture, wanted_spec

# Limit of tests to look at. It is computed before each test, and a suite may have thousands without a guest.
_LOOK_AHEAD = 100


@dataclass(frozen=True)
class ExpectedGuest:
    """A guest that a test is expected to ask for.

    Attributes:
        fixture: the fixture that gives it.
        node: the test, class, module or session that owns it.
        param: the fixture's parameter; pytest makes a new shared guest for each one.
        spec: what it will be made of; None if that is not known before the test runs.
    """

    fixture: str
    node: Any
    param: Any
    spec: GuestSpec | None


class Forecast:
    """The guests that this process will probably be asked for, from the current test on.

    A test may be skipped, or run in another process. A guest is not expected if it has an explicit name, if a
    conftest.py chooses its image, or if a hook changes its machine.
    """

    def __init__(self) -> None:
        self._positions: dict[pytest.Item, int] = {}
        self._shared: dict[str, ExpectedGuest] = {}
        self.specs: list[GuestSpec] = []

    def update(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[GuestSpec]:
        """The guests that *item* and the tests after it will ask for, in this order.

        Args:
            item: the test that is about to be set up.
            nextitem: the test that this process runs after it; None at the end.
        """
        now = self._expect(item, self._shared)
        shared = dict(self._shared)
        later = (self._expect(coming, shared) for coming in self._items_from(nextitem))
        self.specs = [guest.spec for guest in chain(now, *later) if guest.spec is not None]
        return self.specs

    def _items_from(self, nextitem: pytest.Item | None) -> Sequence[pytest.Item]:
        """*nextitem* and the tests after it; with pytest-xdist, only the first one is sure to run in this process."""
        if nextitem is None:
            return ()
        items = nextitem.session.items
        if nextitem not in self._positions:
            self._positions = {known: place for place, known in enumerate(items)}
        place = self._positions.get(nextitem)
        return (nextitem,) if place is None else items[place : place + _LOOK_AHEAD]

    def _expect(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> list[ExpectedGuest]:
        guests = list(self._find_new(item, shared))
        is_changed = bool(guests) and has_machine_hook(item)
        return [] if is_changed else guests

    def _find_new(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> Iterator[ExpectedGuest]:
        """The guests of *item* that are not among the *shared* ones; updates *shared* to the state after *item*."""
        for fixture, known in list(shared.items()):
            if known.node not in item.listchain():
                # It is removed with its class or module.
                del shared[fixture]
        for guest in _expected_guests(item):
            if guest.node is not item:
                before = shared.get(guest.fixture)
                if before is not None and (before.node, before.param) == (guest.node, guest.param):
                    continue
                shared[guest.fixture] = guest
            yield guest


def _expected_guests(item: pytest.Item) -> Iterator[ExpectedGuest]:
    asked = fixture_names(item)
    if OWNERS.keys().isdisjoint(asked) or item.get_closest_marker("skip") is not None:
        return
    params = parameters(item)
    for fixture in OWNERS:
        if fixture in asked and is_plugin_fixture(item, fixture):
            yield ExpectedGuest(fixture, guest_owner(item, fixture), params.get(fixture), _spec(item, fixture))


def _spec(item: pytest.Item, fixture: str) -> GuestSpec | None:
    try:
        spec = wanted_spec(item, fixture)
    except XhyveError:
        # The test reports the problem.
        return None
    return spec if spec is not None and spec.name is None and not spec.reset else None
