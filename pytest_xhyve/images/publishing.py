"""Make an image's files in a folder of its own, and publish them in one step.

A process that is killed on the way leaves nothing that is ever taken for an image.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


@contextmanager
def new_workspace(folder: Path, name: str) -> Iterator[Path]:
    """A new folder in *folder* for the files of *name*; at the end of the block, it is removed unless it was renamed.

    The caller has the lock of *name*, so what earlier processes left of it is removed first.
    """
    for leftover in folder.glob(f".{name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def seal(*paths: Path) -> None:
    """Make files read-only, and write them to the disk (fsync(2)), so that a power cut does not lose them."""
    for path in paths:
        path.chmod(0o400)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest with the keys of *content* at *path*, in one step."""
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        yaml.safe_dump(dict(content), file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
