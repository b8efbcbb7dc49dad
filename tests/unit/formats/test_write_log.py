"""Logs of writes, as QEMU writes them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from pytest_xhyve.formats.write_log import Flag, WriteLog, WriteLogError, count_flushed, read_write_log

SIZE = 1 << 20
ROOM = 4 << 20


def write(folder: Path, *commands: str) -> Path:
    """Let QEMU log what *commands* of qemu-io(1) do to a disk; return the log."""
    disk, log = folder / "disk", folder / "log"
    for path, size in ((disk, SIZE), (log, ROOM)):
        with path.open("wb") as file:
            file.truncate(size)
    node = {
        "driver": "blklogwrites",
        "file": {"driver": "file", "filename": str(disk)},
        "log": {"driver": "raw", "size": ROOM, "file": {"driver": "file", "filename": str(log)}},
        "log-sector-size": 512,
        "discard": "unmap",
    }
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-d", "unmap", *words, f"json:{json.dumps(node)}"], check=True, stdout=subprocess.DEVNULL
    )
    return log


def read(folder: Path, *commands: str) -> WriteLog:
    return read_write_log(write(folder, *commands), SIZE)


def test_each_kind_of_entry(tmp_path: Path) -> None:
    log = read(
        tmp_path, "write -P 1 0 4k", "write -z 64k 8k", "flush", "discard 128k 64k", "write -P 2 512 512", "flush"
    )
    # qemu-io flushes each time twice.
    writes = [entry for entry in log.entries if not entry.is_flush]
    assert [(entry.offset, entry.size, entry.flags) for entry in writes] == [
        (0, 4 << 10, Flag(0)),
        (64 << 10, 8 << 10, Flag(0)),
        (128 << 10, 64 << 10, Flag.DISCARD),
        (512, 512, Flag(0)),
    ]
    content = log.path.read_bytes()
    first, zeros, discarded, last = (content[entry.data : entry.data + entry.size] for entry in writes)
    assert (first, zeros, last) == (b"\1" * 4096, bytes(8192), b"\2" * 512)
    assert writes[2].is_discard
    assert discarded != bytes(64 << 10), "a discard has no data in the log"
    flushes = list(log.flushes())
    assert flushes[0] == 2
    assert log.last_flush() == flushes[-1] + 1 == count_flushed(log.path)
    assert log.last_flush(ignored=frozenset(flushes[1:])) == 3
    assert log.last_flush(ignored=frozenset(flushes)) == 0


def test_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    assert read_write_log(path, SIZE).entries == ()
    path.write_bytes(bytes(8192))
    assert read_write_log(path, SIZE).entries == ()


def test_entries_after_the_last_flush_may_be_incomplete(tmp_path: Path) -> None:
    path = write(tmp_path, "write -P 1 0 4k", "flush")
    complete = read_write_log(path, SIZE)
    end = complete.entries[-1].data
    entry = (8).to_bytes(8, "little") + (8).to_bytes(8, "little") + bytes(16)
    content = path.read_bytes()
    path.write_bytes(content[:end] + entry.ljust(512, b"\0") + b"\3" * 100)
    assert read_write_log(path, SIZE).entries == complete.entries
    path.write_bytes(content[:end] + entry.ljust(512, b"\0") + b"\3" * 4096)
    assert len(read_write_log(path, SIZE).entries) == len(complete.entries) + 1


@pytest.mark.parametrize(
    ("at", "data"),
    [(0, b"XXXX"), (8, b"\2"), (24, b"\0\4"), (512, b"\xff" * 8), (528, b"\xf0"), (512, bytes(32))],
    ids=["magic", "version", "sector size", "beyond the disk", "flags", "missing entry"],
)
def test_damaged_log(at: int, data: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, "write -P 1 0 4k", "flush")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    with pytest.raises(WriteLogError, match=r"superblock|is not valid"):
        read_write_log(path, SIZE)
