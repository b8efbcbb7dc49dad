"""What someone does first in a checkout."""

from __future__ import annotations

import subprocess
import sys

import pages
import pytest


@pytest.mark.thorough
def test_bare_pytest_finds_every_test() -> None:
    """Files of one name in two folders, or a folder that is not of tests, would be errors."""
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=pages.TOP, timeout=120)
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-2000:] + done.stderr[-2000:]
    for part in ("unit", "guests", "images", "standin", "disks"):
        assert f"tests/{part}/" in done.stdout
