"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from pytest_xhyve.home import HOME_VARIABLE, Home

# Examples that start a program take as long as the machine makes them take.
hypothesis.settings.register_profile(
    "default-on-any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("default-on-any-machine")


def pytest_configure(config: pytest.Config) -> None:
    # pytester gives the runs inside a HOME of their own; images are built once for all.
    os.environ[HOME_VARIABLE] = str(Home.of_user().path)


@pytest.fixture
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A folder of the plugin's that nothing has used."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return Home.of_user()
