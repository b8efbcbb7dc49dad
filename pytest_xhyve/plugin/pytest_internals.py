"""Access to private parts of pytest, one function for each, so that a new pytest breaks this module only.

Source: pytest 8.2 to 9.2, ``src/_pytest/``: ``fixtures.py``, ``python.py``, ``capture.py``, ``mark/structures.py`` and
``_code/code.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest


def fixture_names(item: pytest.Item) -> Sequence[str]:
    """The fixtures that *item* asks for, directly or through others; empty for an item that is not a function."""
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names


def set_fixture_names(item: pytest.Item, names: Sequence[str]) -> None:
    """Let pytest set up the fixtures *names* for *item*, in this order."""
    item.fixturenames = list(names)  # type: ignore[attr-defined]


def requested_fixture_names(item: pytest.Item) -> Sequence[str]:
    """As `fixture_names`, with those that the running *item* has requested by ``getfixturevalue``."""
    request = getattr(item, "_request", item)
    names: Sequence[str] = getattr(request, "fixturenames", ())
    return names


def parameters(item: pytest.Item) -> dict[str, Any]:
    """The parameters of *item*, by the name of the argument or fixture."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def parameters_so_far(metafunc: pytest.Metafunc) -> list[dict[str, Any]]:
    """The parameters of each call of a test that `pytest_generate_tests` has made so far, as `parameters`."""
    return [dict(call.params) for call in metafunc._calls]


def fixture_definitions(item: pytest.Item, name: str) -> Sequence[pytest.FixtureDef[Any]]:
    """The definitions of the fixture *name* that *item* sees, the outermost first.

    pytest makes a definition for an argument that is a direct parameter, too.
    """
    known: dict[str, Sequence[pytest.FixtureDef[Any]]] = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    if name in known:
        return known[name]
    # Only `getfixturevalue` asks for it.
    return item.session._fixturemanager.getfixturedefs(name, item) or ()


def item_of(request: pytest.FixtureRequest) -> pytest.Item:
    """The test that *request* belongs to; for a shared fixture, the first one that requested it."""
    item: pytest.Item = request._pyfuncitem
    return item


def is_set_up(item: pytest.Item, name: str) -> bool:
    """Whether the outermost definition of the fixture *name* that *item* sees has a value now."""
    return any(definition.cached_result is not None for definition in fixture_definitions(item, name)[:1])


def fixture_values(item: pytest.Item, name: str) -> list[Any]:
    """What the definitions of the fixture *name* that *item* sees have as their values now."""
    results = [definition.cached_result for definition in fixture_definitions(item, name)]
    # The value, the parameter's key, and the exception that it raised in the place of a value.
    return [result[0] for result in results if result is not None and result[2] is None]


def finish_fixture(item: pytest.Item, name: str) -> None:
    """Tear down the fixture *name* that *item* sees, and all that use it; who asks for it next gets it anew."""
    for definition in fixture_definitions(item, name):
        if definition.cached_result is not None:
            definition.finish(item._request)  # type: ignore[attr-defined]


def is_parameter_set(value: Any) -> bool:
    """Whether *value* was made by ``pytest.param``."""
    return isinstance(value, type(pytest.param()))


def add_to_run(config: pytest.Config, words: Sequence[str]) -> None:
    """Let pytest run *words*, too; if the command line names nothing else, only these."""
    if words:
        others = config.args if config.args_source is config.ArgsSource.ARGS else []
        config.args = [*words, *others]
        config.args_source = config.ArgsSource.ARGS


def suspended_capture(config: pytest.Config) -> AbstractContextManager[None]:
    """In the block, output reaches the terminal."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        return nullcontext()
    suspended: AbstractContextManager[None] = capture.global_and_fixture_disabled()
    return suspended


def crash_location(item: pytest.Item, message: str) -> Any:
    """What pytest's short summary shows for a report without a traceback: the place of *item*, and *message*."""
    from _pytest._code.code import ReprFileLocation  # noqa: PLC0415

    path, line, _ = item.location
    return ReprFileLocation(path, (line or 0) + 1, message)
