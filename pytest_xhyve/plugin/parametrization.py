"""Which images, and which ways to start, a test runs with: each of several, unless the test itself states one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.plugin.pytest_internals import fixture_definitions, is_parameter_set, parameters_so_far
from pytest_xhyve.plugin.wanted import (
    CLUSTER_MARKER,
    CLUSTER_OWNERS,
    IMAGE_FIXTURE,
    SINGLE_OWNERS,
    START_FIXTURE,
    as_cluster_keys,
    marker_arguments,
)


def images_to_run_on(metafunc: pytest.Metafunc, images: tuple[str, ...]) -> tuple[str, ...]:
    """The images to parametrize this test with; empty if there is only one, or a test or conftest.py chooses it."""
    definition = metafunc.definition
    if len(images) < 2 or "image" in marker_arguments(definition):
        return ()
    if any(name == IMAGE_FIXTURE for name, _ in _parameters(metafunc)):
        return ()
    if any(_may_state("image", value) for value in _values(metafunc, SINGLE_OWNERS)):
        return ()
    if _cluster_states_images(metafunc):
        return ()
    return () if len(fixture_definitions(definition, IMAGE_FIXTURE)) > 1 else images


def starts_either_way(metafunc: pytest.Metafunc) -> bool:
    """Whether this test asks for a guest and does not state how it starts."""
    if START_FIXTURE not in metafunc.fixturenames or "start" in marker_arguments(metafunc.definition):
        return False
    return not any(isinstance(value, dict) and "start" in value for value in _values(metafunc, SINGLE_OWNERS))


def _cluster_states_images(metafunc: pytest.Metafunc) -> bool:
    """Whether this test's guests are those of clusters only, and the image of each is stated."""
    names = metafunc.fixturenames
    if not any(name in CLUSTER_OWNERS for name in names) or any(name in SINGLE_OWNERS for name in names):
        return False
    mark = metafunc.definition.get_closest_marker(CLUSTER_MARKER)
    # A parameter is in the place of the marker.
    clusters = [as_cluster_keys(value) for value in _values(metafunc, CLUSTER_OWNERS)]
    return all(map(_states_all_images, clusters or [dict(mark.kwargs) if mark else {}]))


def _states_all_images(keys: dict[str, Any]) -> bool:
    from pytest_xhyve.model.cluster import ClusterSpec

    try:
        guests = ClusterSpec.parse(**keys).guests
    except XhyveError:
        return False
    return all(guest.image is not None for guest in guests.values())


def _may_state(key: str, param: Any) -> bool:
    """Whether the parameter of a guest's fixture states *key*, or is an image."""
    return not isinstance(param, dict) or key in param


def _values(metafunc: pytest.Metafunc, fixtures: Collection[str]) -> list[Any]:
    """The parameters for *fixtures*."""
    return [value for name, value in _parameters(metafunc) if name in fixtures]


def _parameters(metafunc: pytest.Metafunc) -> Iterable[tuple[str, Any]]:
    """The parameters of this test, by their names: those of marks, and those of the hook in a conftest.py or a module.

    pytest calls the hooks before it reads the marks.
    """
    for params in parameters_so_far(metafunc):
        yield from params.items()
    for mark in metafunc.definition.iter_markers("parametrize"):
        yield from _parameters_of(mark)


def _parameters_of(mark: pytest.Mark) -> Iterable[tuple[str, Any]]:
    names = _argnames(mark)
    values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues", ())
    if not isinstance(values, Collection):
        # An iterator can be read once, by pytest; it may hold any key.
        yield from ((name, {"image": None, "start": None}) for name in names)
        return
    is_bare = isinstance(mark.args[0] if mark.args else mark.kwargs["argnames"], str) and len(names) == 1
    for value in values:
        # pytest rejects a row that is too short.
        yield from zip(names, _row(value, is_bare), strict=False)


def _row(value: Any, is_bare: bool) -> Sequence[Any]:
    if is_parameter_set(value):
        values: Sequence[Any] = value.values
        return values
    return [value] if is_bare or not isinstance(value, Sequence) else value


def _argnames(mark: pytest.Mark) -> list[str]:
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
