"""Run a failed test again with its saved guests: the pytest plugin that ``pytest-xhyve resume --pytest`` loads.

Other runs do not import this module.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.plugin.resumed_guests import ResumedTest
from pytest_xhyve.plugin.stash import RESUMED, SETTINGS, settings_of

_BUNDLE, _IMAGE, _KEY = "--xhyve-resume", "--xhyve-resume-image", "--xhyve-resume-key"
_FROZEN = "--xhyve-resume-frozen"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("xhyve")
    for flag in (_BUNDLE, _IMAGE, _KEY):
        group.addoption(flag, default=None, type=Path, help="of pytest-xhyve resume --pytest")
    group.addoption(_FROZEN, action="store_true", help="of pytest-xhyve resume --pytest")


# Last, as the plugin's own hook reads the settings.
@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESUMED] = ResumedTest(
        config.getoption(_BUNDLE),
        config.getoption(_IMAGE),
        config.getoption(_KEY),
        frozen_clock=config.getoption(_FROZEN),
    )
    # The failure of this run would replace the bundle.
    config.stash[SETTINGS] = settings_of(config)._replace(save_failures=None)
