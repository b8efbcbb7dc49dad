"""Look at files that another process makes or removes at any time; a missing one raises nothing."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def find_existing(folder: Path, pattern: str) -> list[Path]:
    """The paths in *folder* that match *pattern* (glob(7)), sorted; wildcards match names that begin with a dot, too.

    What is removed during the search may be left out. `Path.glob` of Python 3.11 raises `FileNotFoundError` then (later
    versions do not: ``_WildcardSelector`` in pathlib.py).
    """
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder, include_hidden=True))  # noqa: PTH207


def size_of(path: Path) -> int:
    """The size of the file at *path* in bytes; 0 if it is missing."""
    status = _look_at(path)
    return 0 if status is None else status.st_size


def changed_at(path: Path) -> float:
    """When the content of *path* was last changed, in seconds as `time.time` counts them; 0 if it is missing."""
    status = _look_at(path)
    return 0.0 if status is None else status.st_mtime


def read_at(path: Path) -> float:
    """When the content of *path* was last read, in seconds as `time.time` counts them; 0 if it is missing."""
    status = _look_at(path)
    return 0.0 if status is None else status.st_atime


def _look_at(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
