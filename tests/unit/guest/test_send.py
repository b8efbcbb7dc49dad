"""An archive of files that another process removes while it is written."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.guest.send import write_archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a", "b/c", "b/d", "z"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "tree"


def names_in(tree: Path, change: Callable[[tarfile.TarInfo], tarfile.TarInfo]) -> list[str]:
    """The members of an archive of *tree*, with their contents where they are files."""
    stream: Any = io.BytesIO()
    write_archive(lambda archive: archive.add(tree, arcname="tree", filter=change), stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        files = (member for member in archive if member.isfile())
        assert all(file.name == f"tree/{archive.extractfile(file).read().decode()}" for file in files)  # type: ignore[union-attr]
        return archive.getnames()


@pytest.mark.parametrize(
    ("during", "gone", "left"),
    [
        ("tree/a", "b/c", ["tree", "tree/a", "tree/b", "tree/b/d", "tree/z"]),
        ("tree/a", "b", ["tree", "tree/a", "tree/z"]),
        ("tree/b", "b", ["tree", "tree/a", "tree/b", "tree/z"]),
        ("tree/a", "a", ["tree", "tree/b", "tree/b/c", "tree/b/d", "tree/z"]),
    ],
)
def test_what_is_removed_is_left_out(tree: Path, during: str, gone: str, left: list[str]) -> None:
    def change(member: tarfile.TarInfo) -> tarfile.TarInfo:
        if member.name == during:
            path = tree / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return member

    assert names_in(tree, change) == left


def test_file_that_is_there_and_cannot_be_read_is_an_error(tree: Path) -> None:
    def change(member: tarfile.TarInfo) -> tarfile.TarInfo:
        if member.name == "tree/z":
            raise FileNotFoundError("another file")
        return member

    with pytest.raises(FileNotFoundError, match="another file"):
        names_in(tree, change)
