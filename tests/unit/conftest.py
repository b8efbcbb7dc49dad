"""What several unit tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import named_plugins
import pytest

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import Guardian


@pytest.fixture
def entry_points() -> None:
    """A pytest that the test starts finds its plugins as a user's does: by entry points, and under their names."""


@pytest.fixture(autouse=True)
def lean_runs(request: pytest.FixtureRequest, lean_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that a unit test starts imports its plugins by name.

    To look for entry points, pytest reads the metadata of all packages that are installed, which takes a third of a
    short run.
    """
    if "entry_points" not in request.fixturenames:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("PYTEST_PLUGINS", named_plugins.__name__)
        monkeypatch.setenv("PYTHONPATH", str(Path(named_plugins.__file__).parent), prepend=os.pathsep)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Contains the folder of the guardian's run."""
    return tmp_path / "runs"


@pytest.fixture
def guardian(run_folder: Path) -> Iterator[Guardian]:
    """A real guardian, with a run of its own."""
    run_folder.mkdir()
    with runs.new_run(run_folder) as (folder, lock):
        guardian = Guardian(folder, lock)
        yield guardian
        guardian.close()
