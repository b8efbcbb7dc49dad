"""Prewarmed guests (``--xhyve-prewarm``): connects pytest's order of tests with the prewarmer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.fleet.prewarmer import Prewarmer
from pytest_xhyve.plugin.forecast import Forecast
from pytest_xhyve.plugin.stash import PREWARMER

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet

_FORECAST = pytest.StashKey[Forecast]()


@contextmanager
def prewarming(config: pytest.Config, fleet: Fleet, count: int) -> Iterator[None]:
    """For the time of the block, let the fixtures take prewarmed guests; *count* may be ready at the same time."""
    with closing(Prewarmer(fleet, count)) as prewarmer:
        prewarmer.expect(_forecast(config).specs)
        config.stash[PREWARMER] = prewarmer
        try:
            yield
        finally:
            del config.stash[PREWARMER]


def expect_guests(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Prewarm the guests that *item* and the tests after it are expected to ask for."""
    specs = _forecast(item.config).update(item, nextitem)
    prewarmer = item.config.stash.get(PREWARMER, None)
    if prewarmer is not None:
        prewarmer.expect(specs)


def _forecast(config: pytest.Config) -> Forecast:
    if _FORECAST not in config.stash:
        config.stash[_FORECAST] = Forecast()
    return config.stash[_FORECAST]
