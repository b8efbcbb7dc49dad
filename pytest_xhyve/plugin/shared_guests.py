"""Shared guests that are reset: which tests get them, and when they are saved and restored.

A guest is saved between the fixtures that tests share and those of the test itself, by a fixture of ours that stands
at this place among the names of the test. Others have no such fixture, and a run without such tests not even the hook.

Tests that follow may bring more shared fixtures that work on the guest: those of the next class, or one that nobody
has asked for before. Each of them finds the guest as the shared fixtures before it have left it, and not as a test
has; what it does itself is saved too, and forgotten when it is taken down. So the states lie on top of one another as
the scopes do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.plugin.selection import asked_to_reset

if TYPE_CHECKING:
    from pytest_xhyve.templates.reset import Checkpoint, Reset

RESET_FIXTURE = "_xhyve_reset"
_HOOKS = "xhyve-reset"
# From the widest to the narrowest, as pytest sets them up.
_SCOPES = ("session", "package", "module", "class", "function")
_NOT_NAMED = (
    "{} shall be reset for each test (reset=True), but the test that asks first does so by getfixturevalue(); let the "
    "test or a fixture of it name {} as an argument or by @pytest.mark.usefixtures"
)


def plan_resets(items: list[pytest.Item]) -> None:
    """Have each of *items* with such a guest reset it, once all shared fixtures are set up and before its own."""
    config = None
    for item in items:
        if asked_to_reset(item):
            config = item.config
            names = [name for name in item.fixturenames if name != RESET_FIXTURE]  # type: ignore[attr-defined]
            known = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
            own = (place for place, name in enumerate(names) if name not in known or _is_own(known[name][-1]))
            names.insert(next(own, len(names)), RESET_FIXTURE)
            item.fixturenames = names  # type: ignore[attr-defined]
    if config is not None and not config.pluginmanager.has_plugin(_HOOKS):
        config.pluginmanager.register(_Hooks(), _HOOKS)


def check_can_reset(request: pytest.FixtureRequest) -> None:
    """Raise when the test that asks for the guest of *request* will not reset it.

    Raises:
        ConfigurationError: pytest did not know of it when it planned the test.
    """
    if RESET_FIXTURE not in request.fixturenames:
        raise ConfigurationError(_NOT_NAMED.format(request.fixturename, request.fixturename))


@contextmanager
def resetting(request: pytest.FixtureRequest, reset: Reset | None) -> Iterator[None]:
    """For the time of the block, have *reset*, if there is one, give each test the guest of *request* in one state."""
    if reset is None:
        yield
        return
    name = str(request.fixturename)
    hooks: _Hooks | None = request.config.pluginmanager.get_plugin(_HOOKS)
    assert hooks is not None
    hooks.guests[name] = _SharedGuest(reset, _SCOPES.index(request.scope))
    try:
        yield
    finally:
        del hooks.guests[name]


@pytest.fixture
def _xhyve_reset(request: pytest.FixtureRequest) -> None:
    """Gives the test its shared guests in the state that the fixtures left."""
    hooks: _Hooks | None = request.config.pluginmanager.get_plugin(_HOOKS)
    for name, guest in list(hooks.guests.items()) if hooks is not None else ():
        if name in request.fixturenames:
            guest.before_test()


@dataclass
class _Layer:
    """What some shared fixtures have done to a guest.

    Attributes:
        scope: theirs, as a place in `_SCOPES`.
        live: how many of them are not taken down.
        checkpoint: the guest as they left it; None until it is saved.
    """

    scope: int
    live: int
    checkpoint: Checkpoint | None = None


class _SharedGuest:
    """A shared guest of which the states are kept, the last on top."""

    def __init__(self, reset: Reset, scope: int) -> None:
        self._reset = reset
        # This one is there as long as the guest.
        self._layers = [_Layer(scope, 1)]

    def before_test(self) -> None:
        """Save what the fixtures left, if that is new, and restore it."""
        if self._reset.is_recording:
            self._save()
        self._reset.restore()

    def before_fixture(self, scope: int, *, ends_early: bool) -> _Layer:
        """Let a shared fixture find the guest as those before it left it, so that what it does is kept.

        Args:
            scope: the fixture's.
            ends_early: whether it may be taken down before others of its scope are.
        """
        if self._reset.is_recording:
            top = self._layers[-1]
            if scope <= top.scope and not ends_early:
                top.live += 1
                return top
            self._save()
        self._reset.record()
        self._layers.append(_Layer(scope, 1))
        return self._layers[-1]

    def after_fixture(self, layer: _Layer) -> None:
        """Forget what a fixture of *layer* did, once all of the layer are taken down, and all above it."""
        layer.live -= 1
        while self._layers[-1].live == 0:
            self._reset.forget(self._layers.pop().checkpoint)

    def _save(self) -> None:
        self._layers[-1].checkpoint = self._reset.save()


class _Hooks:
    """The plugin of a run with such guests.

    Attributes:
        guests: those that are alive, by their fixtures' names.
    """

    def __init__(self) -> None:
        self.guests: dict[str, _SharedGuest] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """Before a shared fixture that works on such a guest; those that it stands on are set up already."""
        if _is_own(fixturedef) or not self.guests:
            return
        for name in self.guests.keys() & _named_by(fixturedef, request):
            guest = self.guests[name]
            layer = guest.before_fixture(_SCOPES.index(fixturedef.scope), ends_early=hasattr(request, "param"))
            fixturedef.addfinalizer(partial(guest.after_fixture, layer))


def _is_own(definition: pytest.FixtureDef[Any]) -> bool:
    """Whether a fixture is set up for each test."""
    return definition.scope == "function"


def _named_by(definition: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> set[str]:
    """The fixtures that one stands on, be it through others."""
    known = request._pyfuncitem._fixtureinfo.name2fixturedefs
    found: set[str] = set()
    coming = list(definition.argnames)
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            coming += [argument for each in known.get(name, ()) for argument in each.argnames]
    return found
