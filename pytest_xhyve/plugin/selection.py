"""Read from markers and parameters, before any test runs, which guests the tests need; check the markers.

The plugin imports this module only if a test asks for a guest or has the marker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.plugin.pytest_internals import fixture_names, parameters
from pytest_xhyve.plugin.wanted import (
    CLUSTER_MARKER,
    CLUSTER_OWNERS,
    MARKER,
    RESTRICTION_KEYS,
    RUN_FIXTURE,
    SINGLE_OWNERS,
    as_spec_keys,
    is_plugin_fixture,
    marker_arguments,
    split_restriction,
    stated_cluster,
    stated_spec,
    wanted_cluster,
    wanted_spec,
)

if TYPE_CHECKING:
    from pytest_xhyve.model.spec import GuestSpec

SHARED_FIXTURES = tuple(name for name, owner in SINGLE_OWNERS.items() if owner is not None)
"""The fixtures whose guests several tests share."""

_MARKER_KEYS = (
    *("image", "cpus", "memory", "disks", "disk_size", "firmware", "network", "name", "start", "reset", "power_cuts"),
    "shares",
    *RESTRICTION_KEYS,
)
_ALWAYS_FRESH = "reset=True is for guests that tests share (xhyve_class_guest, …); xhyve_guest is always fresh"
_ALWAYS_NEW = "reset=True is for clusters that tests share (xhyve_class_guests, …); xhyve_guests is always fresh"


def wanted_specs(item: pytest.Item) -> Iterator[GuestSpec]:
    """What the guests of *item* will be made of, as far as known before it runs."""
    names = fixture_names(item)
    for fixture in (name for name in CLUSTER_OWNERS if name in names):
        with contextlib.suppress(XhyveError):
            cluster = wanted_cluster(item, fixture)
            if cluster is not None:
                yield from cluster.guests.values()
    for fixture in (name for name in SINGLE_OWNERS if name in names):
        # `check_markers` has reported an invalid marker.
        with contextlib.suppress(XhyveError):
            spec = wanted_spec(item, fixture)
            if spec is not None:
                yield spec


def fixtures_to_reset(item: pytest.Item) -> set[str]:
    """The fixtures whose shared guests are reset for *item* (``reset=True``)."""
    found = set()
    names = fixture_names(item)
    for fixture in (name for name in SHARED_FIXTURES if name in names and name != RUN_FIXTURE):
        with contextlib.suppress(XhyveError):
            if stated_spec(item, fixture).reset:
                found.add(fixture)
    for fixture in (name for name in CLUSTER_OWNERS if name in names):
        with contextlib.suppress(XhyveError):
            if stated_cluster(item, fixture).reset:
                found.add(fixture)
    return found


def may_reset(item: pytest.Item) -> bool:
    """Whether *item* has a guest with ``reset=True``, or may get one by ``getfixturevalue``."""
    marks = chain(item.iter_markers(MARKER), item.iter_markers(CLUSTER_MARKER))
    return any(mark.kwargs.get("reset") is True for mark in marks) or bool(fixtures_to_reset(item))


def check_markers(items: Iterable[pytest.Item]) -> Iterator[tuple[pytest.Item, str]]:
    """Each test with an invalid marker, and the problem: a key, a value, or a guest that the marker does not reach."""
    for item in items:
        for node, mark in item.iter_markers_with_node(MARKER):
            problem = _find_problem(mark) or _find_unreached(item, node) or _find_useless_reset(item, node, mark)
            if problem is not None:
                yield item, f"{item.nodeid}: {problem}"
                break
        else:
            if as_spec_keys(parameters(item).get("xhyve_guest")).get("reset") is True:
                yield item, f"{item.nodeid}: {_ALWAYS_FRESH}"
        problem = _find_cluster_problem(item)
        if problem is not None:
            yield item, f"{item.nodeid}: {problem}"


def _find_problem(mark: pytest.Mark) -> str | None:
    # Parsing imports modules that the guests of these tests need anyway.
    from pytest_xhyve.model.restriction import Restriction
    from pytest_xhyve.model.spec import GuestSpec

    if mark.args:
        return f"@pytest.mark.xhyve takes keywords only: {', '.join(_MARKER_KEYS)}"
    try:
        guest, restriction = split_restriction(mark.kwargs)
        Restriction.parse(**restriction)
        GuestSpec.parse(**guest)
    except XhyveError as error:
        return f"@pytest.mark.xhyve: {error}"
    return None


def _find_cluster_problem(item: pytest.Item) -> str | None:
    """The problem of a marker for clusters, or of a fixture that gives one."""
    from pytest_xhyve.model.cluster import ClusterSpec

    names = fixture_names(item)
    try:
        for node, mark in item.iter_markers_with_node(CLUSTER_MARKER):
            if mark.args:
                return f'@pytest.mark.{CLUSTER_MARKER} takes keywords only: server="debian12", or nodes=3'
            if ClusterSpec.parse(**mark.kwargs).reset and node is item and not fixtures_to_reset(item):
                return _ALWAYS_NEW
        for fixture in (name for name in CLUSTER_OWNERS if name in names and is_plugin_fixture(item, name)):
            stated_cluster(item, fixture)
    except XhyveError as error:
        return f"@pytest.mark.{CLUSTER_MARKER}: {error}"
    return None


def _find_unreached(item: pytest.Item, node: Any) -> str | None:
    """The problem of a marker on one test that asks for a shared guest only, or only uses the factory."""
    asked = fixture_names(item)
    if node is not item or "xhyve_guest" in asked or not CLUSTER_OWNERS.keys().isdisjoint(asked):
        return None
    for name in reversed(SHARED_FIXTURES):
        if name in asked:
            return (
                f"@pytest.mark.xhyve on one test does not reach {name}, which other tests share; put it on the class, "
                "into the module's pytestmark, or use xhyve_guest"
            )
    if "xhyve_guest_factory" in asked:
        return "@pytest.mark.xhyve does not reach xhyve_guest_factory; give its keys to the factory"
    return None


def _find_useless_reset(item: pytest.Item, node: Any, mark: pytest.Mark) -> str | None:
    """The problem of a ``reset=True`` that resets no guest of *item*, though it seems to.

    A class or module may hold tests with other guests, so a marker on it may be without effect on some of them.
    """
    if mark.kwargs.get("reset") is not True:
        return None
    names = fixture_names(item)
    shared = [name for name in reversed(SHARED_FIXTURES) if name in names]
    if shared and not fixtures_to_reset(item) and marker_arguments(item).get("reset") is True:
        return (
            f"@pytest.mark.xhyve(reset=True) on a {type(node).__name__.lower()} does not reach {shared[0]}, which "
            "other tests share; put it where all of these are: on the class, into the module's pytestmark, or into the "
            "fixture's parameter"
        )
    if node is item and not shared:
        return _ALWAYS_FRESH
    return None
