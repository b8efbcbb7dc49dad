"""Which tests want guests, and made of what: markers and parameters, read before any test runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

MARKER = "xhyve"
GUEST_FIXTURES = frozenset({"xhyve_guest", "xhyve_class_guest", "xhyve_module_guest", "xhyve_session_guest"})
_NEEDS_GUEST = {*GUEST_FIXTURES, "xhyve_guest_factory", "xhyve_ssh"}
_MARKER_KEYS = ("image", "cpus", "memory", "name")


def wants_guest(item: pytest.Item) -> bool:
    """Whether *item* asks for a guest, be it through other fixtures."""
    return not _NEEDS_GUEST.isdisjoint(getattr(item, "fixturenames", ()))


def marked(node: pytest.Item | pytest.Collector) -> dict[str, Any]:
    """What the markers on *node* and around it say, the nearest word first."""
    keys: dict[str, Any] = {}
    for mark in node.iter_markers(MARKER):
        keys = {**mark.kwargs, **keys}
    return keys


def images_to_run_on(metafunc: pytest.Metafunc, images: tuple[str, ...]) -> tuple[str, ...]:
    """The images that this test shall run on one after the other; none when there is no choice.

    A test that names its image itself, by marker or parameter, runs on that one, and so do tests below a conftest.py
    that overrides `xhyve_image`.
    """
    definition = metafunc.definition
    if len(images) < 2 or "xhyve_image" not in metafunc.fixturenames:
        return ()
    if "image" in marked(definition) or any(_names_image(mark) for mark in definition.iter_markers("parametrize")):
        return ()
    overriding = definition.session._fixturemanager.getfixturedefs("xhyve_image", definition)
    return () if overriding and len(overriding) > 1 else images


def check_markers(items: Iterable[pytest.Item]) -> Iterator[tuple[pytest.Item, str]]:
    """Each test whose marker cannot be meant, and why: a wrong key or value, or a guest that it does not reach."""
    for item in items:
        for node, mark in item.iter_markers_with_node(MARKER):
            wrong = _find_wrong(mark) or _find_unreached(item, node)
            if wrong is not None:
                yield item, f"{item.nodeid}: {wrong}"
                break


def _find_wrong(mark: pytest.Mark) -> str | None:
    # Parsing takes the modules that the guests of these tests need anyway.
    from pytest_xhyve.errors import XhyveError
    from pytest_xhyve.spec import GuestSpec

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


def _names_image(mark: pytest.Mark) -> bool:
    """Whether a parametrize mark says which image to use."""
    argnames = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
    names = [name.strip() for name in (argnames.split(",") if isinstance(argnames, str) else argnames)]
    if "xhyve_image" in names:
        return True
    if GUEST_FIXTURES.isdisjoint(names):
        return False
    values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues", ())
    return not all(isinstance(value, dict) and "image" not in value for value in values)
