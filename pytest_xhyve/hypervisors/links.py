"""Names for files on a command line that separates words by commas."""

from __future__ import annotations

from pathlib import Path


def link_without_comma(path: Path, folder: Path, name: str) -> str:
    """A path relative to *folder*, without a comma; a file that has none gets a link in *folder*.

    Args:
        path: the file.
        folder: the guest's folder.
        name: a word for the file that no other file of the guest has.
    """
    if path.parent == folder and "," not in path.name:
        return path.name
    link = folder / f"link-to-{name}"
    link.unlink(missing_ok=True)
    link.symlink_to(path.absolute())
    return link.name
