"""The keys under which a `pytest.Config` keeps what belongs to the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.model.settings import Settings

if TYPE_CHECKING:
    from pytest_xhyve.fleet.prewarmer import Prewarmer
    from pytest_xhyve.plugin.summary import RunSummary

SETTINGS = pytest.StashKey[Settings]()
"""Where a `pytest.Config` keeps the settings of its run."""

PREWARMER: pytest.StashKey[Prewarmer] = pytest.StashKey()
"""Where it keeps what makes guests ahead, where that was asked for, as long as there is a fleet."""

SUMMARY: pytest.StashKey[RunSummary] = pytest.StashKey()
"""Where it keeps what is told of guests at the end of a run, under xdist of those of all workers."""

ITEM: pytest.StashKey[pytest.Item] = pytest.StashKey()
"""Where it keeps the test that is set up, run or taken down."""
