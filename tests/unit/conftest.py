"""What several unit tests need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import Guardian


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
