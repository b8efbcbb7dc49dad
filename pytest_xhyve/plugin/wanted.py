"""Which guest a test gets. Only this module merges marker, parameter, ``xhyve_image`` and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.plugin.pytest_internals import fixture_definitions, fixture_names, parameters
from pytest_xhyve.plugin.stash import settings_of

if TYPE_CHECKING:
    from pytest_xhyve.model.cluster import ClusterSpec
    from pytest_xhyve.model.spec import GuestSpec

MARKER = "xhyve"
IMAGE_FIXTURE = "xhyve_image"
START_FIXTURE = "_xhyve_start"
OWNERS: dict[str, type[pytest.Collector] | None] = {
    "xhyve_session_guest": pytest.Session,
    "xhyve_module_guest": pytest.Module,
    "xhyve_class_guest": pytest.Class,
    "xhyve_guest": None,
}
"""Each fixture that gives one guest, in pytest's order of set-up, and the kind of its owner; None is the test."""

RUN_FIXTURE = "xhyve_run_guest"
"""The fixture whose guest all processes of a run share. It is not in `OWNERS`: only one of them needs its slot."""

SINGLE_OWNERS: dict[str, type[pytest.Collector] | None] = {RUN_FIXTURE: pytest.Session, **OWNERS}
"""Each fixture that gives one guest."""

CLUSTER_MARKER = "xhyve_guests"
CLUSTER_OWNERS: dict[str, type[pytest.Collector] | None] = {
    name.replace("guest", "guests"): owner for name, owner in OWNERS.items()
}
"""The same for each fixture that gives the guests of a cluster."""

RESTRICTION_KEYS = ("only", "skip_on")
"""The keys of the marker that restrict a test to images, and describe no guest."""

FACTORY_FIXTURE = "xhyve_guest_factory"

_FIXTURES_MODULE = "pytest_xhyve.plugin.fixtures"
_NEEDS_GUEST = {*SINGLE_OWNERS, *CLUSTER_OWNERS, FACTORY_FIXTURE, "xhyve_images", "xhyve_ssh"}


def wants_guest(item: pytest.Item) -> bool:
    """Whether *item* asks for a guest, directly or through other fixtures."""
    return not _NEEDS_GUEST.isdisjoint(fixture_names(item))


def wanted_spec(item: pytest.Item, fixture: str) -> GuestSpec | None:
    """What the guest is made of that *item* gets from *fixture*, as far as known before it runs.

    Returns:
        the spec; None if the user's code decides, because the fixture or the image is overridden.

    Raises:
        ConfigurationError: the marker or parameter is invalid.
    """
    from pytest_xhyve.model.spec import GuestSpec

    if not is_plugin_fixture(item, fixture):
        return None
    params = parameters(item)
    spec = stated_spec(item, fixture)
    if spec.image is None:
        if not is_plugin_fixture(item, IMAGE_FIXTURE):
            return None
        spec = spec.with_defaults(GuestSpec(image=params.get(IMAGE_FIXTURE, settings_of(item.config).images[0])))
    return spec.with_defaults(GuestSpec(start=params.get(START_FIXTURE)))


def stated_spec(item: pytest.Item, fixture: str) -> GuestSpec:
    """What markers and the parameter of *fixture* state about the guest that *item* gets from it.

    Raises:
        ConfigurationError: they are invalid.
    """
    from pytest_xhyve.model.spec import GuestSpec

    keys = as_spec_keys(parameters(item).get(fixture, {}))
    spec = GuestSpec.parse(**(marker_arguments(guest_owner(item, fixture)) | keys)).anchored(item.config.rootpath)
    # A test's own guest is always new; a marker around the test is for the shared guests.
    return replace(spec, reset=None) if SINGLE_OWNERS[fixture] is None else spec


def guest_owner(item: pytest.Item, fixture: str) -> pytest.Item | pytest.Collector:
    """The test, class, module or session whose guest *fixture* gives to *item*."""
    kind = {**SINGLE_OWNERS, **CLUSTER_OWNERS}[fixture]
    # Outside of a class, xhyve_class_guest belongs to the test.
    return item if kind is None else item.getparent(kind) or item


def wanted_cluster(item: pytest.Item, fixture: str) -> ClusterSpec | None:
    """The cluster that *item* gets from *fixture*, as far as known before it runs.

    Returns:
        the cluster; None if the user's code decides, because the fixture or the image is overridden.

    Raises:
        ConfigurationError: the marker or parameter is invalid, or both are missing.
    """
    from pytest_xhyve.model.spec import GuestSpec

    if not is_plugin_fixture(item, fixture):
        return None
    params = parameters(item)
    spec = stated_cluster(item, fixture)
    image = params.get(IMAGE_FIXTURE)
    if any(guest.image is None for guest in spec.guests.values()):
        if not is_plugin_fixture(item, IMAGE_FIXTURE):
            return None
        image = image or settings_of(item.config).images[0]
    return spec.with_defaults(GuestSpec(image=image, start=params.get(START_FIXTURE)))


def stated_cluster(item: pytest.Item, fixture: str) -> ClusterSpec:
    """What markers and the parameter of *fixture* state about the cluster that *item* gets from it.

    The nearest marker ``xhyve_guests`` names the guests, or the parameter does in its place. The keys of the marker
    ``xhyve`` hold for each guest that does not state them itself.

    Raises:
        ConfigurationError: they are invalid, or name no guests.
    """
    from pytest_xhyve.model.cluster import ClusterSpec
    from pytest_xhyve.model.spec import GuestSpec

    node = guest_owner(item, fixture)
    param = parameters(item).get(fixture)
    # Only the nearest one, as it lists all guests.
    mark = node.get_closest_marker(CLUSTER_MARKER)
    keys = as_cluster_keys(param) if param is not None else {} if mark is None else mark.kwargs
    common = marker_arguments(node)
    reset = common.pop("reset", None)
    common.pop("name", None)
    spec = ClusterSpec.parse(**{"reset": reset, **keys}).with_defaults(GuestSpec.parse(**common))
    # A test's own cluster is always new.
    spec = spec.anchored(item.config.rootpath)
    return replace(spec, reset=False) if CLUSTER_OWNERS[fixture] is None else spec


def as_cluster_keys(param: Any) -> dict[str, Any]:
    """The marker's keys from an indirect parameter, which is a dict of them, or the number of guests."""
    return dict(param) if isinstance(param, dict) else {"nodes": param}


def marker_arguments(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    """The keys of the markers on *node* and around it that describe its guest; the nearest one wins."""
    return split_restriction(_all_arguments(node))[0]


def restriction_arguments(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    """The keys of the markers on *node* and around it that restrict it to images; the nearest one wins."""
    return split_restriction(_all_arguments(node))[1]


def split_restriction(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The marker's keys that describe a guest, and those that restrict a test to images."""
    restriction = {key: value for key, value in keys.items() if key in RESTRICTION_KEYS}
    return {key: value for key, value in keys.items() if key not in restriction}, restriction


def _all_arguments(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for mark in node.iter_markers(MARKER):
        keys = {**mark.kwargs, **keys}
    return keys


def as_spec_keys(param: Any) -> dict[str, Any]:
    """The marker's keys from an indirect parameter, which is an image or a dict of these keys."""
    return dict(param) if isinstance(param, dict) else {"image": param}


def is_plugin_fixture(item: pytest.Item, fixture: str) -> bool:
    """Whether *item* gets the plugin's *fixture*, perhaps through an overriding one that requests it."""
    found = fixture_definitions(item, fixture)
    if not found or found[0].func.__module__ != _FIXTURES_MODULE:
        return False
    if fixture == IMAGE_FIXTURE:
        return len(found) == 1
    return all(fixture in definition.argnames for definition in found[1:])
