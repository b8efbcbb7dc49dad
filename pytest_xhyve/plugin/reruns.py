"""Gives a test that runs again new guests: those that it shares with other tests, too.

pytest-rerunfailures and its like run a failed test again, with new fixtures of its own. They keep the shared fixtures,
and so would keep a guest that the failed test may have damaged.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from pytest_xhyve.plugin.pytest_internals import finish_fixture, requested_fixture_names
from pytest_xhyve.plugin.selection import fixtures_to_reset
from pytest_xhyve.plugin.wanted import CLUSTER_OWNERS, FACTORY_FIXTURE, OWNERS


@contextmanager
def renewing(config: pytest.Config) -> Iterator[None]:
    """For the time of the block, tear down the shared guests of a failed test before the same test runs again.

    pytest then sets up their fixtures again, and with them all that use these fixtures.
    """
    hooks = _Hooks()
    config.pluginmanager.register(hooks)
    try:
        yield
    finally:
        config.pluginmanager.unregister(hooks)


class _Hooks:
    def __init__(self) -> None:
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
