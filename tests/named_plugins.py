"""A plugin of pytest that imports, by name, the plugins that a unit test's run needs."""

from __future__ import annotations

import pytest

NAMES = ("pytest_xhyve.plugin", "xdist.plugin", "xdist.looponfail", "pytest_timeout")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Import the plugins.

    For each name in ``PYTEST_PLUGINS``, pytest would read the metadata of all packages first.
    """
    for name in NAMES:
        pluginmanager.import_plugin(name)
