"""Files with holes: what is sent of them, and what the guest's shell makes of it, here by the shell of this host."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.guest.sparse import SparseFiles, _script, _write

MIB = 1 << 20


def make(path: Path, size: int, *data: tuple[int, bytes]) -> tarfile.TarInfo:
    """A file with holes between *data*, and its member of an archive."""
    with path.open("wb") as file:
        file.truncate(size)
        for at, content in data:
            file.seek(at)
            file.write(content)
    member = tarfile.TarInfo("sub folder/it's")
    member.size, member.mtime = size, 1_000_000
    return member


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (8 * MIB, ()),
        (8 * MIB, ((0, b"begin"),)),
        (8 * MIB + 5, ((8 * MIB, b"end!!"),)),
        (64 * MIB + 3, tuple((at * MIB * 3 + 777, b"x" * 70_000) for at in range(20))),
        # More pieces than a command line can name.
        (480 * MIB, tuple((at * (MIB + (128 << 10)), b"%d" % at) for at in range(400))),
    ],
)
def test_copy_is_the_same(tmp_path: Path, size: int, data: tuple[tuple[int, bytes], ...]) -> None:
    path = tmp_path / "file"
    member = make(path, size, *data)
    sparse = SparseFiles()
    sparse.leave_out(member, path)
    (file,) = sparse.found
    assert member.size == 0
    target = tmp_path / "there" / member.name
    target.parent.mkdir(parents=True)
    target.touch()
    sent: Any = io.BytesIO()
    _write(file, sent)
    script = _script(file, str(tmp_path / "there"))
    assert len(script) < 30_000
    subprocess.run(["sh", "-c", script], input=sent.getvalue(), check=True)
    assert subprocess.run(["cmp", path, target], check=False).returncode == 0
    assert target.stat().st_mtime == 1_000_000
    assert target.stat().st_blocks <= path.stat().st_blocks + len(sent.getvalue()) // 512 + 128


def test_file_without_large_holes_is_sent_as_it_is(tmp_path: Path) -> None:
    sparse = SparseFiles()
    for size, data in ((100, ()), (MIB, ((0, b"x"), (MIB - 1, b"x"))), (4 * MIB, ((0, b"x" * 4 * MIB),))):
        member = make(tmp_path / "file", size, *data)
        sparse.leave_out(member, tmp_path / "file")
        assert member.size == size
    read_only = make(tmp_path / "file", 8 * MIB)
    read_only.mode = 0o444
    sparse.leave_out(read_only, tmp_path / "file")
    assert not sparse.found
