"""Copies of what a test has fetched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pytest_xhyve.report.artifacts import Artifacts


def test_copy_of_a_fetched_file_keeps_its_holes(tmp_path: Path) -> None:
    """A guest's file may be longer than the disk of the host."""
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    for place in (fetched / "file", tmp_path / "alone"):
        with place.open("wb") as file:
            file.truncate(1 << 34)
            file.seek(1 << 33)
            file.write(b"in the middle")
        place.chmod(0o755)
    (fetched / "link").symlink_to("file")
    (fetched / "broken").symlink_to("nowhere")
    guest = cast("Any", SimpleNamespace(name="web"))
    artifacts = Artifacts(tmp_path / "artifacts")
    for local in (fetched, tmp_path / "alone"):
        artifacts.save_fetched("test", guest, local)
    copies = tmp_path / "artifacts" / "test" / "web" / "fetched"
    for copy in (copies / "fetched" / "file", copies / "alone"):
        status = copy.stat()
        assert (status.st_size, status.st_mode & 0o777) == (1 << 34, 0o755)
        assert status.st_blocks * 512 < 1 << 20
    assert (copies / "fetched" / "link").readlink() == Path("file")
    assert (copies / "fetched" / "broken").readlink() == Path("nowhere")
