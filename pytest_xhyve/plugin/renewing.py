"""Gives tests new guests in the place of shared ones that cannot serve them any more.

pytest-rerunfailures and its like run a failed test again, with new fixtures of its own. They keep the shared fixtures,
and so would keep a guest that the failed test may have damaged. And a shared guest whose hypervisor has died would fail
each test after that.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.plugin.pytest_internals import (
    finish_fixture,
    fixture_names,
    fixture_values,
    requested_fixture_names,
)
from pytest_xhyve.plugin.selection import fixtures_to_reset
from pytest_xhyve.plugin.wanted import CLUSTER_OWNERS, FACTORY_FIXTURE, OWNERS

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# Those whose value is one guest, or the guests of a cluster.
_SHARED = {name for name, owner in {**OWNERS, **CLUSTER_OWNERS}.items() if owner is not None}


class RenewalHooks:
    """While registered, tear down shared guests that have died, and those of a test that runs again.

    pytest then sets up their fixtures again, and with them all that use these fixtures.

    Args:
        report: called with a line for each guest that has died.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._failed: pytest.Item | None = None
        self._requested: frozenset[str] = frozenset()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            self._failed = item
            # pytest forgets those that the test asked for by `getfixturevalue`.
            self._requested = frozenset(requested_fixture_names(item))
        return report

    # First, as the slots of guests that are there are not reserved.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        failed, self._failed = self._failed, None
        if failed is item:
            # The plugin resets the others, whatever has become of them.
            for name in self._requested & {*OWNERS, *CLUSTER_OWNERS, FACTORY_FIXTURE} - fixtures_to_reset(item):
                finish_fixture(item, name)
        shared = _SHARED.intersection(fixture_names(item))
        for name in sorted(shared - fixtures_to_reset(item)) if shared else ():
            dead = [guest for guest in _guests_of(item, name) if guest._own_power.has_died]
            for guest in dead:
                self._report(
                    f"guest {guest.name} has died: its hypervisor ended unexpectedly; this test and the next ones get "
                    f"a new {name}"
                )
            if dead:
                finish_fixture(item, name)


def _guests_of(item: pytest.Item, name: str) -> Iterator[Guest]:
    """The guests that *item* would get from the shared fixture *name*, if it is set up."""
    from pytest_xhyve.guest.guest import Guest  # noqa: PLC0415  # this module, too, is imported only beside guests
    from pytest_xhyve.guest.guests import Guests  # noqa: PLC0415

    for value in fixture_values(item, name):
        # A project may have a fixture of its own with this name.
        if isinstance(value, Guest):
            yield value
        elif isinstance(value, Guests):
            yield from value
