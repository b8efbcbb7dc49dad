"""Merge what was copied from a guest into a folder of the user, without following a link in it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path


def merge(source: Path, target: Path) -> None:
    """Move *source*, a file, link or folder, to *target*, as ``cp -r`` does.

    A folder is merged into a folder that is there. If there is a symbolic link where a folder of *source* comes, the
    folder replaces it: nothing is written to the place where the link points. Files and links are replaced.

    Raises:
        OSError: *target* cannot be written; or there is a file where a folder comes, or the other way round.
    """
    waiting = [(source, target)]
    while waiting:
        here, there = waiting.pop()
        if not stat.S_ISDIR(here.lstat().st_mode):
            _move(here, there)
            continue
        mode = _mode_of(there)
        if mode is not None and stat.S_ISLNK(mode):
            there.unlink()
            mode = None
        if mode is None:
            _move(here, there)
        elif stat.S_ISDIR(mode):
            with os.scandir(here) as entries:
                waiting += [(Path(entry.path), there / entry.name) for entry in entries]
        else:
            raise FileExistsError(errno.EEXIST, "there is a file where a folder comes", os.fspath(there))


def _mode_of(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _move(here: Path, there: Path) -> None:
    try:
        here.replace(there)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A folder of the target is a file system of its own. What is at this path is replaced, and not written.
        there.unlink(missing_ok=True)
        if here.is_dir() and not here.is_symlink():
            shutil.copytree(here, there, symlinks=True)
        else:
            shutil.copy2(here, there, follow_symlinks=False)
