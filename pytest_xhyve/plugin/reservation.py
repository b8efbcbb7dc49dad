"""Reserves the slots of all guests that a test needs, at once and before its first fixture."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.host.host_files import check_host_files
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.machine_hook import has_machine_hook
from pytest_xhyve.plugin.pytest_internals import fixture_names, is_set_up
from pytest_xhyve.plugin.stash import PREWARMER
from pytest_xhyve.plugin.wanted import (
    CLUSTER_OWNERS,
    OWNERS,
    RUN_FIXTURE,
    is_plugin_fixture,
    stated_cluster,
    wanted_cluster,
    wanted_spec,
)

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet


def reserve_slots(item: pytest.Item, fleet: Fleet, *, run_guest_is_there: bool = False) -> None:
    """Reserve the slots of all guests that *item* is about to get, in one step, so that tests do not block each other.

    Guests of the factory are not known in advance, so a test can still wait for one while it holds others. The guest of
    the run is made before: a test that holds slots must not wait for the worker that makes it.

    Raises:
        NoFreeSlot: the guests exceed a limit, or their slots did not become free in time.
        XhyveError: this process does not see the files of the host.
    """
    # Before anything is looked for among them, such as the hypervisor.
    check_host_files()
    if not run_guest_is_there and _is_new(item, RUN_FIXTURE):
        return
    specs = [_spec(item, name) for name in OWNERS if _is_new(item, name)]
    prewarmer = item.config.stash.get(PREWARMER, None)
    if prewarmer is not None and not has_machine_hook(item):
        specs = prewarmer.find_missing(specs)
    specs += chain.from_iterable(_specs(item, name) for name in CLUSTER_OWNERS if _is_new(item, name))
    if specs:
        fleet.reserve_slots(specs, item.nodeid)


def _is_new(item: pytest.Item, name: str) -> bool:
    """Whether *item* asks for the guests of the fixture *name*, which are not there yet."""
    return name in fixture_names(item) and is_plugin_fixture(item, name) and not is_set_up(item, name)


def _spec(item: pytest.Item, fixture: str) -> GuestSpec:
    try:
        return wanted_spec(item, fixture) or GuestSpec()
    except XhyveError:
        # The fixture reports the problem.
        return GuestSpec()


def _specs(item: pytest.Item, fixture: str) -> list[GuestSpec]:
    try:
        return list((wanted_cluster(item, fixture) or stated_cluster(item, fixture)).guests.values())
    except XhyveError:
        # The fixture reports the problem.
        return []


class ReservationHooks:
    """While registered, reserve the slots of each test before its set-up, and free those that it did not use.

    The fleet may start with a fixture of the first test, which then calls `reserve_slots`.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    # Not first, as pytest skips tests in this hook; but before pytest's own, which sets up the fixtures.
    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        reserve_slots(item, self._fleet)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._fleet.release_reserved_slots()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        self._fleet.release_reserved_slots()
