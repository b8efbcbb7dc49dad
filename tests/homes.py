"""Folders of the plugin's for tests."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.home import Home


def share(home: Home, path: Path) -> Home:
    """A folder of the plugin's at *path* with the images and keys of *home*, which knows nothing of its guests."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("acceleration", "checked", "images", "keys", "templates"):
        link = path / name
        if not link.is_symlink():
            link.symlink_to(home.folder(name))
    return Home(path)
