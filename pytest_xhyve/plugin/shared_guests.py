"""Shared guests with ``reset=True``: which tests get them, and when they are saved and restored.

The plugin saves such a guest between the fixtures that tests share and those of the test itself. To do that, it puts a
fixture of its own at this place among the fixtures of the test. Other tests have no such fixture, and a run without
such tests not even the hook.

A test may also ask for the guest by ``getfixturevalue``, which pytest does not know in advance. Such a test finds the
guest reset too: the plugin resets it at the moment when the test first uses it.

Tests that follow may bring more shared fixtures that work on the guest: those of the next class, or one that no test
has asked for before. Each of them finds the guest as the shared fixtures before it have left it, not as a test has.
What it does itself is saved too, and forgotten when it is torn down. So the states lie on top of one another as the
scopes do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.plugin.pytest_internals import fixture_names, item_of, known_fixtures, set_fixture_names
from pytest_xhyve.plugin.selection import asked_to_reset

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.templates.checkpoints import Checkpoint
    from pytest_xhyve.templates.reset import Reset

RESET_FIXTURE = "_xhyve_reset"
_HOOKS = "xhyve-reset"
# From the widest to the narrowest, as pytest sets them up.
_SCOPES = ("session", "package", "module", "class", "function")


def plan_resets(items: list[pytest.Item]) -> None:
    """Have each of *items* with such a guest reset it, after all shared fixtures are set up and before its own."""
    for item in items:
        # Also for a test that asks for its guest by `getfixturevalue` alone.
        watch_fixtures(item.config)
        if asked_to_reset(item):
            names = [name for name in fixture_names(item) if name != RESET_FIXTURE]
            own = (place for place, name in enumerate(names) if _is_own(item, name))
            names.insert(next(own, len(names)), RESET_FIXTURE)
            set_fixture_names(item, names)


@contextmanager
def resetting(
    request: pytest.FixtureRequest, guest: Guest, reset: Reset | None, *, name: str | None = None
) -> Iterator[None]:
    """For the time of the block, give each test *guest* in the state that the shared fixtures left.

    Args:
        request: of the fixture whose guest it is.
        guest: a shared guest.
        reset: what resets it; None if it is not to be reset.
        name: what the guest is known by; its fixture's name if None.
    """
    if reset is None:
        yield
        return
    name = name or str(request.fixturename)
    hooks = _hooks_of(request.config)
    hooks.guests[name] = shared = _SharedGuest(guest, reset, _SCOPES.index(request.scope))
    hooks.watch(name)
    try:
        yield
    finally:
        shared.forget_first_use()
        del hooks.guests[name]


def watch_fixtures(config: pytest.Config) -> None:
    """From here on, notice which shared fixtures are set up: a guest that one of them makes may have to be reset."""
    _hooks_of(config)


def _hooks_of(config: pytest.Config) -> _Hooks:
    hooks: _Hooks | None = config.pluginmanager.get_plugin(_HOOKS)
    if hooks is None:
        hooks = _Hooks()
        config.pluginmanager.register(hooks, _HOOKS)
    return hooks


def reset_before_test(request: pytest.FixtureRequest) -> None:
    """Give the test of *request* its shared guests in the state that the fixtures left."""
    for name, guest in list(_hooks_of(request.config).guests.items()):
        if name in request.fixturenames:
            guest.before_test()


@dataclass
class _Layer:
    """What some shared fixtures have done to a guest.

    Attributes:
        scope: theirs, as a place in `_SCOPES`.
        live: how many of them are not torn down.
        checkpoint: the guest as they left it; None until it is saved.
    """

    scope: int
    live: int
    checkpoint: Checkpoint | None = None


class _SharedGuest:
    """A shared guest whose states are kept, the last one on top."""

    def __init__(self, guest: Guest, reset: Reset, scope: int) -> None:
        self._guest = guest
        self._reset = reset
        # This one is there as long as the guest.
        self._layers = [_Layer(scope, 1)]

    def at_first_use(self, act: Callable[[], None]) -> None:
        """Call *act* when the guest is used next, before that."""
        self._guest._before_use = act

    def forget_first_use(self) -> None:
        """Let the guest be used as it is."""
        self._guest._before_use = None

    def before_test(self) -> None:
        """Save what the fixtures left, if that is new, and restore it."""
        self.forget_first_use()
        if self._reset.can_save:
            self._save()
        self._reset.restore()

    def before_fixture(self, scope: int, *, ends_early: bool) -> _Layer:
        """Let a shared fixture find the guest as the fixtures before it left it, and keep what it does.

        Args:
            scope: the fixture's.
            ends_early: whether it may be torn down before others of its scope.
        """
        self.forget_first_use()
        if self._reset.can_save:
            top = self._layers[-1]
            if scope <= top.scope and not ends_early:
                top.live += 1
                return top
            self._save()
        self._reset.restore(recorded=True)
        self._layers.append(_Layer(scope, 1))
        return self._layers[-1]

    def after_fixture(self, layer: _Layer) -> None:
        """Forget what the fixtures of *layer* and above did, once all of the layer are torn down."""
        layer.live -= 1
        while self._layers[-1].live == 0:
            self._reset.forget(self._layers.pop().checkpoint)

    def _save(self) -> None:
        self._layers[-1].checkpoint = self._reset.save()


@dataclass
class _Setup:
    """A shared fixture that is being set up.

    Attributes:
        definition: the fixture's.
        request: the fixture's.
        guests: those that it uses, by their fixtures' names.
    """

    definition: pytest.FixtureDef[Any]
    request: pytest.FixtureRequest
    guests: set[str] = field(default_factory=set)


class _Hooks:
    """The plugin of a run with such guests.

    Attributes:
        guests: those that are alive, by their fixtures' names.
    """

    def __init__(self) -> None:
        self.guests: dict[str, _SharedGuest] = {}
        self._setups: list[_Setup] = []

    def watch(self, name: str) -> None:
        """Notice the next use of a guest: its user may have got it by ``getfixturevalue``, and so be unknown."""
        self.guests[name].at_first_use(partial(self._use, name))

    def _use(self, name: str) -> None:
        setups = [setup for setup in self._setups if setup.definition.argname != name]
        for setup in setups:
            self._enter(setup, name)
        if not setups:
            self.guests[name].before_test()

    def _enter(self, setup: _Setup, name: str) -> None:
        """The fixture of *setup* is about to use the guest *name*."""
        if name not in setup.guests:
            setup.guests.add(name)
            guest = self.guests[name]
            scope = _SCOPES.index(setup.definition.scope)
            layer = guest.before_fixture(scope, ends_early=hasattr(setup.request, "param"))
            setup.definition.addfinalizer(partial(guest.after_fixture, layer))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        for name in self.guests:
            self.watch(name)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        """From here on, fixtures are torn down, which find the guest as the test left it."""
        for guest in self.guests.values():
            guest.forget_first_use()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Around the set-up of a shared fixture; those that it uses itself are set up already."""
        if fixturedef.scope == "function":
            return (yield)
        setup = _Setup(fixturedef, request)
        self._setups.append(setup)
        try:
            for name in self.guests.keys() & _used_by(fixturedef, item_of(request)):
                self._enter(setup, name)
            result = yield
        finally:
            self._setups.remove(setup)
        for name in setup.guests & self.guests.keys():
            self.watch(name)
        return result


def _is_own(item: pytest.Item, name: str) -> bool:
    """Whether the fixture *name* is set up for each test; arguments that are parameters are, too."""
    known = known_fixtures(item, name)
    return not known or known[-1].scope == "function"


def _used_by(definition: pytest.FixtureDef[Any], item: pytest.Item) -> set[str]:
    """The fixtures that the one of *definition* uses, directly or through others."""
    found: set[str] = set()
    coming = list(definition.argnames)
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            coming += [argument for each in known_fixtures(item, name) for argument in each.argnames]
    return found
