"""What the coming tests will ask for, as far as it can be told before they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.selection import as_spec_keys, marker_arguments

# In the order in which pytest sets them up.
_SCOPES: dict[str, type[pytest.Collector] | None] = {
    "xhyve_session_guest": pytest.Session,
    "xhyve_module_guest": pytest.Module,
    "xhyve_class_guest": pytest.Class,
    "xhyve_guest": None,
}
_IMAGE = "xhyve_image"
_START = "_xhyve_start"

# A suite may have thousands of tests without a guest, and this is asked before each.
_LOOK = 100


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

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places: dict[pytest.Item, int] = {}
        self._shared: dict[str, ExpectedGuest] = {}
        self.specs: list[GuestSpec] = []

    def look(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[GuestSpec]:
        """What *item*, which is about to be set up, and those after it will ask for, in their order.

        Args:
            item: a test.
            nextitem: the one that this process runs after it; None at the end.
        """
        now = self._guess(item, self._shared)
        shared = dict(self._shared)
        later = (self._guess(coming, shared) for coming in self._after(nextitem))
        self.specs = [wish.spec for wish in chain(now, *later) if wish.spec is not None]
        return self.specs

    def _after(self, nextitem: pytest.Item | None) -> Sequence[pytest.Item]:
        """*nextitem* and what follows it; under pytest-xdist, only the first is sure to run here."""
        if nextitem is None:
            return ()
        items = nextitem.session.items
        if nextitem not in self._places:
            self._places = {known: place for place, known in enumerate(items)}
        place = self._places.get(nextitem)
        return (nextitem,) if place is None else items[place : place + _LOOK]

    def _guess(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> list[ExpectedGuest]:
        wishes = list(self._new(item, shared))
        is_changed = bool(wishes) and bool(item.ihook.pytest_xhyve_machine.get_hookimpls())
        return [] if is_changed else wishes

    def _new(self, item: pytest.Item, shared: dict[str, ExpectedGuest]) -> Iterator[ExpectedGuest]:
        """What *item* asks for that is not among the *shared* guests, which are brought to the state after it."""
        for fixture, known in list(shared.items()):
            if known.node not in item.listchain():
                # Taken away with the class or module.
                del shared[fixture]
        for wish in _wishes(item, self._settings):
            if wish.node is not item:
                before = shared.get(wish.fixture)
                if before is not None and (before.node, before.param) == (wish.node, wish.param):
                    continue
                shared[wish.fixture] = wish
            yield wish


def _wishes(item: pytest.Item, settings: Settings) -> Iterator[ExpectedGuest]:
    asked = getattr(item, "fixturenames", ())
    if _SCOPES.keys().isdisjoint(asked) or item.get_closest_marker("skip") is not None:
        return
    params = getattr(getattr(item, "callspec", None), "params", {})
    for fixture, kind in _SCOPES.items():
        if fixture in asked and _is_ours(item, fixture):
            # A class's guest that a plain function asks for is its own.
            node = item if kind is None else item.getparent(kind) or item
            yield ExpectedGuest(fixture, node, params.get(fixture), _spec(item, node, fixture, params, settings))


def _spec(
    item: pytest.Item, node: pytest.Item | pytest.Collector, fixture: str, params: dict[str, Any], settings: Settings
) -> GuestSpec | None:
    try:
        spec = GuestSpec.parse(**(marker_arguments(node) | as_spec_keys(params.get(fixture, {}))))
        if spec.image is None and _is_ours(item, _IMAGE):
            spec = spec.with_defaults(GuestSpec(image=params.get(_IMAGE, settings.images[0])))
        spec = spec.with_defaults(GuestSpec(start=params.get(_START)))
        if node is item:
            # It is always fresh; a marker around it is for shared guests.
            spec = replace(spec, reset=None)
    except XhyveError:
        # The test will tell what is wrong with it.
        return None
    return spec if spec.image is not None and spec.name is None and not spec.reset else None


def _is_ours(item: pytest.Item, fixture: str) -> bool:
    """Whether *item* gets what our *fixture* makes, be it through others of the same name that stand on it."""
    # With a parameter that is not indirect, pytest has a definition of its own here.
    found: Any = item._fixtureinfo.name2fixturedefs.get(fixture, ())  # type: ignore[attr-defined]
    if not found or found[0].func.__module__ != "pytest_xhyve.plugin.fixtures":
        return False
    if fixture == _IMAGE:
        return len(found) == 1
    return all(fixture in definition.argnames for definition in found[1:])
