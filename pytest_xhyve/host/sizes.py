"""Sizes: what files take of the disk, and how people read it."""

from __future__ import annotations

import contextlib
from pathlib import Path


def size_on_disk(path: Path) -> int:
    """Bytes that the file at *path* takes on the disk, or all files in a folder; holes take none, nor what is gone."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            return sum(size_on_disk(inside) for inside in path.iterdir())
        return path.lstat().st_blocks * 512
    return 0


def format_size(size: int) -> str:
    """*size* in bytes as ``12 KiB``, ``256 MiB`` or ``1.5 GiB``."""
    if size < 1 << 10:
        return f"{size} B"
    if size < 1 << 20:
        return f"{size / (1 << 10):.0f} KiB"
    unit, bits = ("MiB", 20) if size < 1 << 30 else ("GiB", 30)
    return f"{f'{size / (1 << bits):.1f}'.removesuffix('.0')} {unit}"
