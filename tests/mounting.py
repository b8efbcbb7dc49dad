"""File systems of a test's own, for what happens on full and on read-only ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs with these *options* at *folder*, for the time of a block; the test is skipped where it may not."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("only who may mount can have a file system for it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
