"""The keys of the plugin in the stash of a `pytest.Config`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.model.settings import Settings

if TYPE_CHECKING:
    from pytest_xhyve.fleet.prewarmer import Prewarmer
    from pytest_xhyve.plugin.resumed_guests import ResumedTest
    from pytest_xhyve.plugin.summary import RunSummary

SETTINGS = pytest.StashKey[Settings]()
"""The settings of the run."""

PREWARMER: pytest.StashKey[Prewarmer] = pytest.StashKey()
"""The prewarmer, with ``--xhyve-prewarm`` and as long as there is a fleet."""

SUMMARY: pytest.StashKey[RunSummary] = pytest.StashKey()
"""The summary at the end of the run; in the xdist controller, that of all workers."""

RESUMED: pytest.StashKey[ResumedTest] = pytest.StashKey()
"""The saved guests that the test gets in the place of new ones, in a run of ``pytest-xhyve resume --pytest``."""

ITEM: pytest.StashKey[pytest.Item] = pytest.StashKey()
"""The test that is being set up, run or torn down."""

SHARED_RUN = pytest.StashKey[str]()
"""In a worker of xdist that has used a guest of the whole run: the id of the run."""
