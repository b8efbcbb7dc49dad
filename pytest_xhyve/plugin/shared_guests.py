"""Shared guests with ``reset=True``: which tests get them, and when they are saved and restored.

The plugin saves such a guest after the shared fixtures of a test are set up, and before the test's own fixtures. To do
that, it inserts a fixture of its own between them. Other tests do not get this fixture, and a run without such tests
does not even register the hooks.

A test may also request the guest by ``getfixturevalue``, which pytest does not know in advance. In that case, the
plugin resets the guest when the test first uses it.

A later test may set up another shared fixture that changes the guest: one of the next class, for example. Such a
fixture gets the guest as the shared fixtures before it left it, not as a test left it. The plugin saves its changes
too, and drops them when the fixture is torn down. So the saved states form a stack, as the scopes do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.plugin.pytest_internals import fixture_definitions, fixture_names, item_of, set_fixture_names
from pytest_xhyve.plugin.selection import fixtures_to_reset

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.templates.checkpoints import Checkpoint
    from pytest_xhyve.templates.guests_reset import GuestsReset
    from pytest_xhyve.templates.reset import Reset

RESET_FIXTURE = "_xhyve_reset"
_HOOKS = "xhyve-reset"
# From the widest to the narrowest, as pytest sets them up.
_SCOPES = ("session", "package", "module", "class", "function")


def plan_resets(items: list[pytest.Item]) -> None:
    """Insert `RESET_FIXTURE` into each of *items* with such a guest: after shared fixtures, before the test's own."""
    for item in items:
        # Also for a test that requests its guest by `getfixturevalue` only.
        watch_fixtures(item.config)
        if fixtures_to_reset(item):
            names = [name for name in fixture_names(item) if name != RESET_FIXTURE]
            own = (place for place, name in enumerate(names) if _is_set_up_per_test(item, name))
            names.insert(next(own, len(names)), RESET_FIXTURE)
            set_fixture_names(item, names)


def _do_nothing() -> None:
    """A single guest has no faults of LANs."""


@contextmanager
def resetting(
    request: pytest.FixtureRequest,
    guests: Sequence[Guest],
    resets: Iterable[Reset | None],
    heal: Callable[[], None] = _do_nothing,
    *,
    name: str | None = None,
) -> Iterator[None]:
    """For the time of the block, reset *guests* before each test to the state that the shared fixtures left.

    Args:
        request: the request of the fixture that made the guests.
        guests: a shared guest, or those of a shared cluster.
        resets: what saves and restores each of them; None for guests that are not to be reset.
        heal: ends the faults of their LANs.
        name: identifies them; None for the name of their fixture.
    """
    known = [reset for reset in resets if reset is not None]
    if not known:
        yield
        return
    from pytest_xhyve.templates.guests_reset import GuestsReset  # noqa: PLC0415

    reset = GuestsReset(known, heal)
    name = name or str(request.fixturename)
    hooks = _get_hooks(request.config)
    hooks.guests[name] = shared = _SharedGuest(guests, reset, _SCOPES.index(request.scope))
    hooks.watch(name)
    try:
        yield
    finally:
        shared.clear_on_next_use()
        del hooks.guests[name]


def watch_fixtures(config: pytest.Config) -> None:
    """Watch from now on which shared fixtures are set up; they may change a guest that has to be reset."""
    _get_hooks(config)


def _get_hooks(config: pytest.Config) -> _ResetHooks:
    hooks: _ResetHooks | None = config.pluginmanager.get_plugin(_HOOKS)
    if hooks is None:
        hooks = _ResetHooks()
        config.pluginmanager.register(hooks, _HOOKS)
    return hooks


def reset_before_test(request: pytest.FixtureRequest) -> None:
    """Reset the shared guests of the test of *request* to the state that the shared fixtures left."""
    for name, guest in list(_get_hooks(request.config).guests.items()):
        if name in request.fixturenames:
            guest.before_test()


@dataclass
class _Layer:
    """A saved state of a guest: what some shared fixtures of one scope have done to it.

    Attributes:
        scope: their scope, as an index of `_SCOPES`.
        live: number of them that are not torn down.
        checkpoint: the guests as they left them; None until they are saved.
    """

    scope: int
    live: int
    checkpoint: tuple[Checkpoint, ...] | None = None


class _SharedGuest:
    """A shared guest, or the guests of a shared cluster, and the stack of the saved states."""

    def __init__(self, guests: Sequence[Guest], reset: GuestsReset, scope: int) -> None:
        self._guests = guests
        self._reset = reset
        # The guest's own fixture: this layer stays as long as the guest.
        self._layers = [_Layer(scope, 1)]

    def on_next_use(self, action: Callable[[], None]) -> None:
        """Call *action* once, just before the next use of the guest, or of any of the guests."""
        for guest in self._guests:
            guest._before_use = action

    def clear_on_next_use(self) -> None:
        """Cancel the call of `on_next_use`."""
        for guest in self._guests:
            guest._before_use = None

    def before_test(self) -> None:
        """Save what the fixtures left, unless it is saved already, and restore it."""
        self.clear_on_next_use()
        if self._reset.can_save:
            self._save()
        self._reset.restore()

    def before_fixture(self, scope: int, *, ends_early: bool) -> _Layer:
        """Restore the guest to the state of the shared fixtures so far, and record what the next one changes.

        Args:
            scope: the fixture's scope, as an index of `_SCOPES`.
            ends_early: whether it may be torn down before others of its scope.
        """
        self.clear_on_next_use()
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
        """Remove *layer* and those above it, once all of its fixtures are torn down."""
        layer.live -= 1
        while self._layers[-1].live == 0:
            self._reset.forget(self._layers.pop().checkpoint)

    def _save(self) -> None:
        self._layers[-1].checkpoint = self._reset.save()


@dataclass
class _Setup:
    """A shared fixture that is being set up.

    Attributes:
        definition: the fixture's definition.
        request: the fixture's request.
        guests: the names of the guests that it uses.
    """

    definition: pytest.FixtureDef[Any]
    request: pytest.FixtureRequest
    guests: set[str] = field(default_factory=set)


class _ResetHooks:
    """pytest's hooks for a run with such guests.

    Attributes:
        guests: the shared guests that exist, by name.
    """

    def __init__(self) -> None:
        self.guests: dict[str, _SharedGuest] = {}
        self._setups: list[_Setup] = []

    def watch(self, name: str) -> None:
        """Reset the guest at its next use: a test or fixture may get it by ``getfixturevalue``."""
        self.guests[name].on_next_use(partial(self._before_use, name))

    def _before_use(self, name: str) -> None:
        setups = [setup for setup in self._setups if setup.definition.argname != name]
        for setup in setups:
            self._prepare_for(setup, name)
        if not setups:
            self.guests[name].before_test()

    def _prepare_for(self, setup: _Setup, name: str) -> None:
        """Prepare the guest *name* for the fixture of *setup*, which is about to use it."""
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
        """Do not reset from now on: fixtures that are torn down get the guest as the test left it."""
        for guest in self.guests.values():
            guest.clear_on_next_use()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Prepare the guests before a shared fixture is set up; the fixtures that it uses are set up already."""
        if fixturedef.scope == "function":
            return (yield)
        setup = _Setup(fixturedef, request)
        self._setups.append(setup)
        try:
            for name in self.guests.keys() & _fixtures_used_by(fixturedef, item_of(request)):
                self._prepare_for(setup, name)
            result = yield
        finally:
            self._setups.remove(setup)
        for name in setup.guests & self.guests.keys():
            self.watch(name)
        return result


def _is_set_up_per_test(item: pytest.Item, name: str) -> bool:
    """Whether the fixture *name* is set up for each test; so are arguments that are parameters."""
    known = fixture_definitions(item, name)
    return not known or known[-1].scope == "function"


def _fixtures_used_by(definition: pytest.FixtureDef[Any], item: pytest.Item) -> set[str]:
    """The fixtures that the one of *definition* uses, directly or through others."""
    found: set[str] = set()
    coming = list(definition.argnames)
    while coming:
        name = coming.pop()
        if name not in found:
            found.add(name)
            coming += [argument for each in fixture_definitions(item, name) for argument in each.argnames]
    return found
