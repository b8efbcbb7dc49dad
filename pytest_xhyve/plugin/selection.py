"""Which tests want guests, and made of what: markers and parameters, read before any test runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.model.settings import INI

MARKER = "xhyve"
GUEST_FIXTURES = frozenset({"xhyve_guest", "xhyve_class_guest", "xhyve_module_guest", "xhyve_session_guest"})
_NEEDS_GUEST = {*GUEST_FIXTURES, "xhyve_guest_factory", "xhyve_ssh"}
SHARED = {"xhyve_class_guest": pytest.Class, "xhyve_module_guest": pytest.Module, "xhyve_session_guest": pytest.Session}
"""Whose guest each shared fixture gives."""

_MARKER_KEYS = ("image", "cpus", "memory", "name", "start", "reset")
_ALWAYS_FRESH = "reset=True is for guests that tests share (xhyve_class_guest, …); xhyve_guest is always fresh"


def base_of(source: str, config: pytest.Config) -> Path:
    """The folder from which a path counts that was given by *source*: the ini file's, or that of the call."""
    written = source.startswith(INI) and config.inipath is not None
    return config.inipath.parent if written and config.inipath else config.invocation_params.dir


def wants_guest(item: pytest.Item) -> bool:
    """Whether *item* asks for a guest, be it through other fixtures."""
    return not _NEEDS_GUEST.isdisjoint(getattr(item, "fixturenames", ()))


def marker_arguments(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    """What the markers on *node* and around it say, the nearest word first."""
    keys: dict[str, Any] = {}
    for mark in node.iter_markers(MARKER):
        keys = {**mark.kwargs, **keys}
    return keys


def as_spec_keys(param: Any) -> dict[str, Any]:
    """What an indirect parameter says: an image, or a dict of the marker's keys."""
    return dict(param) if isinstance(param, dict) else {"image": param}


def images_to_run_on(metafunc: pytest.Metafunc, images: tuple[str, ...]) -> tuple[str, ...]:
    """The images that this test shall run on one after the other; none when there is no choice.

    A test that names its image itself, by marker or parameter, runs on that one, and so do tests below a conftest.py
    that overrides `xhyve_image`.
    """
    definition = metafunc.definition
    if len(images) < 2 or "xhyve_image" not in metafunc.fixturenames:
        return ()
    if "image" in marker_arguments(definition) or any(
        _names_image(mark) for mark in definition.iter_markers("parametrize")
    ):
        return ()
    return () if _overrides_image(definition) else images


def named_images(item: pytest.Item, default: str) -> Iterator[Any]:
    """The images that the fixtures of *item* are going to make guests from, as far as that is written down.

    Args:
        item: a collected test.
        default: the image where neither test nor conftest.py names one.
    """
    params = getattr(getattr(item, "callspec", None), "params", {})
    for fixture in GUEST_FIXTURES.intersection(getattr(item, "fixturenames", ())):
        keys = marker_arguments(item) | as_spec_keys(params.get(fixture, {}))
        if keys.get("image") is not None:
            yield keys["image"]
        elif "xhyve_image" in params:
            yield params["xhyve_image"]
        elif not _overrides_image(item):
            yield default


def starts_either_way(metafunc: pytest.Metafunc) -> bool:
    """Whether this test asks for a guest and leaves open how it starts."""
    definition = metafunc.definition
    if "_xhyve_start" not in metafunc.fixturenames or "start" in marker_arguments(definition):
        return False
    return not any(_says_start(mark) for mark in definition.iter_markers("parametrize"))


def asked_to_reset(item: pytest.Item) -> set[str]:
    """The shared guests that *item* gets in the state that the fixtures left, by the fixtures' names."""
    asked = SHARED.keys() & set(getattr(item, "fixturenames", ()))
    params = getattr(getattr(item, "callspec", None), "params", {})
    found = set()
    for name in asked:
        # A class's guest that a plain function asks for is its own.
        node: Any = item.getparent(SHARED[name]) or item
        param = params.get(name)
        keys = marker_arguments(node) | (param if isinstance(param, dict) else {})
        if keys.get("reset") is True:
            found.add(name)
    return found


def check_markers(items: Iterable[pytest.Item]) -> Iterator[tuple[pytest.Item, str]]:
    """Each test whose marker is invalid, and why: a wrong key or value, or a guest that it does not reach."""
    for item in items:
        for node, mark in item.iter_markers_with_node(MARKER):
            wrong = _find_wrong(mark) or _find_unreached(item, node) or _find_useless_reset(item, node, mark)
            if wrong is not None:
                yield item, f"{item.nodeid}: {wrong}"
                break
        else:
            own = getattr(getattr(item, "callspec", None), "params", {}).get("xhyve_guest")
            if isinstance(own, dict) and own.get("reset") is True:
                yield item, f"{item.nodeid}: {_ALWAYS_FRESH}"


def _find_wrong(mark: pytest.Mark) -> str | None:
    # Parsing takes the modules that the guests of these tests need anyway.
    from pytest_xhyve.model.errors import XhyveError
    from pytest_xhyve.model.spec import GuestSpec

    if mark.args:
        return f"@pytest.mark.xhyve takes keywords only: {', '.join(_MARKER_KEYS)}"
    try:
        GuestSpec.parse(**mark.kwargs)
    except XhyveError as error:
        return f"@pytest.mark.xhyve: {error}"
    return None


def _find_unreached(item: pytest.Item, node: Any) -> str | None:
    """What a marker on the test itself does not reach: guests that others share, or that are made by hand."""
    asked = set(getattr(item, "fixturenames", ()))
    if node is not item or "xhyve_guest" in asked:
        return None
    for name in ("xhyve_class_guest", "xhyve_module_guest", "xhyve_session_guest"):
        if name in asked:
            return (
                f"@pytest.mark.xhyve on one test does not reach {name}, which other tests share; put it on the class, "
                "into the module's pytestmark, or use xhyve_guest"
            )
    if "xhyve_guest_factory" in asked:
        return "@pytest.mark.xhyve does not reach xhyve_guest_factory; give its keys to the factory"
    return None


def _find_useless_reset(item: pytest.Item, node: Any, mark: pytest.Mark) -> str | None:
    """What ``reset=True`` does not do for *item*: reset a guest of its own, or one that more tests share than it says.

    A class or module may hold tests with other guests, so of it no more is asked than that nobody takes it wrong.
    """
    if mark.kwargs.get("reset") is not True:
        return None
    shared = [name for name in SHARED if name in getattr(item, "fixturenames", ())]
    if shared and not asked_to_reset(item) and marker_arguments(item).get("reset") is True:
        return (
            f"@pytest.mark.xhyve(reset=True) on a {type(node).__name__.lower()} does not reach {shared[0]}, which "
            "other tests share; put it where all of these are: on the class, into the module's pytestmark, or into the "
            "fixture's parameter"
        )
    if node is item and not shared:
        return _ALWAYS_FRESH
    return None


def _overrides_image(item: pytest.Item) -> bool:
    """Whether a conftest.py or a module gives *item* an `xhyve_image` of its own, which only its code knows."""
    overriding = item.session._fixturemanager.getfixturedefs("xhyve_image", item)
    return overriding is not None and len(overriding) > 1


def _says_start(mark: pytest.Mark) -> bool:
    """Whether a parametrize mark says how a guest starts."""
    return any(isinstance(param, dict) and "start" in param for param in _guest_params(mark))


def _names_image(mark: pytest.Mark) -> bool:
    """Whether a parametrize mark says which image to use."""
    if "xhyve_image" in _argnames(mark):
        return True
    return not all(isinstance(param, dict) and "image" not in param for param in _guest_params(mark))


def _guest_params(mark: pytest.Mark) -> list[Any]:
    """What a parametrize mark gives to a guest's fixture, as far as it does."""
    names = _argnames(mark)
    place = next((place for place, name in enumerate(names) if name in GUEST_FIXTURES), None)
    if place is None:
        return []
    values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues", ())
    if not isinstance(values, Collection):
        # An iterator can be read once, which is pytest's to do; it may say anything.
        return [dict.fromkeys(_MARKER_KEYS)]
    is_bare = isinstance(mark.args[0] if mark.args else mark.kwargs["argnames"], str) and len(names) == 1
    rows = [_row(value, is_bare) for value in values]
    # pytest refuses one that is too short.
    return [row[place] for row in rows if len(row) > place]


def _row(value: Any, is_bare: bool) -> Sequence[Any]:
    if isinstance(value, type(pytest.param())):
        return value.values
    return [value] if is_bare or not isinstance(value, Sequence) else value


def _argnames(mark: pytest.Mark) -> list[str]:
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
