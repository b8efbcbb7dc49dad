"""What the plugin reads of pytest that pytest does not promise to keep.

Each has one function here, so that a change of pytest breaks this module and no other. Read in pytest 8.2 to 9.2, in
``src/_pytest/``: ``fixtures.py``, ``python.py``, ``capture.py``, ``mark/structures.py`` and ``_code/code.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest


def fixture_names(item: pytest.Item) -> Sequence[str]:
    """The names of the fixtures that *item* asks for, directly or through others; none for an item of another kind."""
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names


def set_fixture_names(item: pytest.Item, names: Sequence[str]) -> None:
    """Have pytest set up the fixtures *names* for *item*, in this order."""
    item.fixturenames = list(names)  # type: ignore[attr-defined]


def requested_names(item: pytest.Item) -> Sequence[str]:
    """As `fixture_names`, with those that the running *item* has asked for by ``getfixturevalue``."""
    request = getattr(item, "_request", item)
    names: Sequence[str] = getattr(request, "fixturenames", ())
    return names


def parameters(item: pytest.Item) -> dict[str, Any]:
    """The parameters of *item*, by the names of arguments and fixtures."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def known_fixtures(item: pytest.Item, name: str) -> Sequence[pytest.FixtureDef[Any]]:
    """The definitions of the fixture *name* that *item* sees, the outermost first.

    A parameter that is not indirect is a definition of its own.
    """
    known: dict[str, Sequence[pytest.FixtureDef[Any]]] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    if name in known:
        return known[name]
    # Only `getfixturevalue` asks for it.
    return item.session._fixturemanager.getfixturedefs(name, item) or ()


def item_of(request: pytest.FixtureRequest) -> pytest.Item:
    """The test that *request* is made for; of a shared fixture, the first one that asks."""
    item: pytest.Item = request._pyfuncitem
    return item


def is_set_up(item: pytest.Item, name: str) -> bool:
    """Whether the outermost fixture *name* that *item* sees has a value now."""
    return any(definition.cached_result is not None for definition in known_fixtures(item, name)[:1])


def is_parameter_set(value: Any) -> bool:
    """Whether *value* was made by ``pytest.param``."""
    return isinstance(value, type(pytest.param()))


def suspended_capture(config: pytest.Config) -> AbstractContextManager[None]:
    """Let what is printed in the block reach the terminal."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        return nullcontext()
    suspended: AbstractContextManager[None] = capture.global_and_fixture_disabled()
    return suspended


def crash_location(item: pytest.Item, message: str) -> Any:
    """What the short summary shows of a report that has no traceback: where *item* is defined, and *message*."""
    from _pytest._code.code import ReprFileLocation  # noqa: PLC0415

    path, line, _ = item.location
    return ReprFileLocation(path, (line or 0) + 1, message)
