"""Files with holes: what is sent of them, and what the guest's shell makes of it, here by the shell of this host."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.formats.tar import TarReader
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


_MANY = tuple((at * (MIB + (128 << 10)), b"%d" % at) for at in range(400))

FILES = [
    (8 * MIB, ()),
    (8 * MIB, ((0, b"begin"),)),
    (8 * MIB + 5, ((8 * MIB, b"end!!"),)),
    (64 * MIB + 3, tuple((at * MIB * 3 + 777, b"x" * 70_000) for at in range(20))),
    # More pieces than a command line can name.
    pytest.param(480 * MIB, _MANY, marks=pytest.mark.thorough),
    (20 << 30, (((20 << 30) - 3, b"end"),)),
]


@pytest.mark.parametrize(("size", "data"), FILES[:-1])
def test_copy_is_the_same(tmp_path: Path, size: int, data: tuple[tuple[int, bytes], ...]) -> None:
    path = tmp_path / "file"
    member = make(path, size, *data)
    sparse = SparseFiles(in_archive=False)
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
    sparse = SparseFiles(in_archive=False)
    for size, data in ((100, ()), (MIB, ((0, b"x"), (MIB - 1, b"x"))), (4 * MIB, ((0, b"x" * 4 * MIB),))):
        member = make(tmp_path / "file", size, *data)
        sparse.leave_out(member, tmp_path / "file")
        assert member.size == size
    read_only = make(tmp_path / "file", 8 * MIB)
    read_only.mode = 0o444
    sparse.leave_out(read_only, tmp_path / "file")
    assert not sparse.found


@pytest.mark.parametrize(("size", "data"), FILES)
@pytest.mark.parametrize("name", ["it's", "x" * 90 + "/" + "y" * 120])
def test_tar_reads_the_holes(tmp_path: Path, size: int, data: tuple[tuple[int, bytes], ...], name: str) -> None:
    path = tmp_path / "file"
    member = make(path, size, *data)
    member.name, member.mode = name, 0o640
    sparse = SparseFiles(in_archive=True)
    assert sparse.leave_out(member, path) is None
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        sparse.add(archive)
        archive.addfile(tarfile.TarInfo("after"))
    assert len(stream.getvalue()) < 300 * MIB
    # By the plugin's own reader.
    reader = TarReader(io.BytesIO(stream.getvalue()).read)
    members = []
    for each in reader.members():
        members.append((each.name, each.size))
        for offset, chunk in reader.data():
            with path.open("rb") as file:
                file.seek(offset)
                assert file.read(len(chunk)) == chunk
    assert members == [(name, size), ("after", 0)]
    # By GNU's.
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "there"), "-xf", "-"], input=stream.getvalue(), check=True)
    target = tmp_path / "there" / name
    if size < 1 << 30:
        assert subprocess.run(["cmp", path, target], check=False).returncode == 0
    status = target.stat()
    assert (status.st_size, status.st_mtime, status.st_mode & 0o777) == (size, 1_000_000, 0o640)
    assert status.st_blocks <= path.stat().st_blocks + len(stream.getvalue()) // 512 + 128


def test_file_with_two_names_is_filled_afterwards(tmp_path: Path) -> None:
    """Its other name comes before the end of the archive, and needs it."""
    path = tmp_path / "file"
    member = make(path, 8 * MIB, (0, b"begin"))
    (tmp_path / "other").hardlink_to(path)
    sparse = SparseFiles(in_archive=True)
    assert sparse.leave_out(member, path) is member
    assert member.size == 0
    assert len(sparse.found) == 1
