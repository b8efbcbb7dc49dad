"""Disk space that files take."""

from __future__ import annotations

import contextlib
from pathlib import Path


def size_on_disk(path: Path) -> int:
    """Bytes on the disk of the file at *path*, or of all files in a folder; holes and missing files count as 0."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            return sum(size_on_disk(inside) for inside in path.iterdir())
        return path.lstat().st_blocks * 512
    return 0
