"""What the tests of templates share."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from fake_images import write_image
from fake_templates import named

from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return read_manifest(write_image(tmp_path))


@pytest.fixture
def machine(image: Image) -> Machine:
    return named(image, "g-1", UUID(int=1), "52:54:00:00:00:07")
