"""Guests that are made in the background, before the tests that will ask for them."""

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
    """Have the fixtures take guests that are made ahead, for the time of the block."""
    with closing(Prewarmer(fleet, count)) as prewarmer:
        prewarmer.expect(_forecast(config).specs)
        config.stash[PREWARMER] = prewarmer
        try:
            yield
        finally:
            del config.stash[PREWARMER]


def look_ahead(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Guess what *item* and the tests after it will ask for, and have it made."""
    specs = _forecast(item.config).update(item, nextitem)
    prewarmer = item.config.stash.get(PREWARMER, None)
    if prewarmer is not None:
        prewarmer.expect(specs)


def _forecast(config: pytest.Config) -> Forecast:
    if _FORECAST not in config.stash:
        config.stash[_FORECAST] = Forecast()
    return config.stash[_FORECAST]
