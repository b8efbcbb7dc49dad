"""The folders of a run's guests."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.settings import Settings


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "x" * 250])
def test_folder_is_within_that_of_the_run(new_home: Home, tmp_path: Path, name: str) -> None:
    """The guest that prepares a disk has the name that a manifest states of its image."""
    image = read_manifest(write_image(tmp_path))
    with closing(Fleet(Settings(), new_home)) as fleet, fleet.run_context().guard(name, image) as process:
        assert process.folder.parent == fleet.run_folder
        assert process.folder.is_dir()
