"""What the plugin keeps in a `pytest.Config`, and whether its process is a worker of pytest-xdist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_xhyve.fleet.prewarmer import Prewarmer
    from pytest_xhyve.model.settings import Settings
    from pytest_xhyve.plugin.resumed_guests import ResumedTest
    from pytest_xhyve.plugin.summary import RunSummary

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
"""The settings of the run, if an option is set or something has asked `settings_of`."""

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


def settings_of(config: pytest.Config) -> Settings:
    """The settings of the run."""
    settings = config.stash.get(SETTINGS, None)
    if settings is None:
        # A run that sets no option and has no guest does not import them.
        from pytest_xhyve.model.settings import Settings

        settings = config.stash[SETTINGS] = Settings()
    return settings


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")
