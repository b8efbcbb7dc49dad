"""The images for all tests of this folder; `--xhyve-image`, given twice, does the same for a whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

IMAGES = [Path(__file__).parent / name for name in ("nginx", "lighttpd")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "xhyve_image" in metafunc.fixturenames:
        metafunc.parametrize("xhyve_image", IMAGES, ids=lambda path: path.name, indirect=True, scope="session")
