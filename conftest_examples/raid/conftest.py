"""The image of this folder's tests: debian12 with mdadm, which the plugin builds once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The path of the recipe."""
    return Path(__file__).with_name("debian12-mdadm")
