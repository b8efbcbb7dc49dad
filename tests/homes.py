"""Folders of the plugin's for tests."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pytest_xhyve.host.home import Home

KNOWN = ("acceleration", "checked")
"""What was found out about this host and the images' disks; to find it out anew takes seconds."""


def share(home: Home, path: Path, names: tuple[str, ...] = (*KNOWN, "images", "keys", "templates")) -> Home:
    """A folder of the plugin's at *path*, which has *names* in common with *home* and knows nothing of its guests."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        link = path / name
        if not link.is_symlink():
            link.symlink_to(home.folder(name))
    return Home(path)


def marks_against_templates(home: Home) -> set[tuple[Path, int]]:
    """The marks of templates that were put aside or cannot be made, and when each was made, in nanoseconds.

    Other tests, and earlier runs, have the same templates, and may have left some.
    """
    marks = set()
    for end in ("failed", "refused"):
        for path in home.folder("templates").glob(f"*.{end}"):
            with contextlib.suppress(FileNotFoundError):
                marks.add((path, path.stat().st_mtime_ns))
    return marks
