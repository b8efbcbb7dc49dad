"""The log of all writes to a disk, as Linux's dm-log-writes and QEMU's blklogwrites write it.

Sources: Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c of Linux,
block/blklogwrites.c of QEMU. A superblock comes first, then the entries in the order in which the writes completed.
Each entry is one sector, and the written data follows it. QEMU writes the superblock again with each flush, before the
guest learns that the flush is complete. So the number in it counts everything that a guest may rely on.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
"""Bytes: the unit of the log, and of what a disk writes at once."""

_MAGIC = 0x6A736677736872
_VERSION = 1
_SUPERBLOCK = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class WriteLogError(Exception):
    """The log is damaged."""


class Flag(enum.IntFlag):
    """The flags of an entry."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8


# An integer: the complement of an IntFlag has only known bits.
_ALL_FLAGS = int(Flag.FLUSH | Flag.FUA | Flag.DISCARD | Flag.MARK)


@dataclass(frozen=True, slots=True)
class Entry:
    """One write, discard or flush.

    Attributes:
        offset: the first byte on the disk.
        size: the number of bytes; 0 for a flush.
        flags: what kind of entry it is.
        data: where the written bytes are in the log's file; a discard has none there.
    """

    offset: int
    size: int
    flags: Flag
    data: int

    @property
    def is_flush(self) -> bool:
        """Whether everything before this entry is on the disk once it is complete."""
        return Flag.FLUSH in self.flags

    @property
    def is_durable(self) -> bool:
        """Whether this write itself is on the disk once it is complete (FUA, forced unit access)."""
        return Flag.FUA in self.flags

    @property
    def is_discard(self) -> bool:
        """Whether the disk may forget these bytes; they read as zeros afterwards."""
        return Flag.DISCARD in self.flags


@dataclass(frozen=True, slots=True)
class WriteLog:
    """A log, as far as it was complete when it was read.

    Attributes:
        path: its file.
        entries: in the order in which the writes completed.
    """

    path: Path
    entries: Sequence[Entry]

    def flushes(self) -> Iterator[int]:
        """The index of each flush."""
        return (index for index, entry in enumerate(self.entries) if entry.is_flush)

    def last_flush(self, ignored: frozenset[int] = frozenset()) -> int:
        """The number of entries up to and with the last flush; 0 if there was none.

        Args:
            ignored: the indexes of flushes that do not count, since the guest did not ask for them.
        """
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].is_flush and index not in ignored:
                return index + 1
        return 0


def read_write_log(path: Path, disk_size: int) -> WriteLog:
    """Read the log at *path*, while QEMU may still append to it.

    Args:
        path: the log's file, which had no data before QEMU wrote to it.
        disk_size: the size of the disk, in bytes.

    Raises:
        WriteLogError: the log is damaged.
        OSError: the file cannot be read.
    """
    counted = count_flushed(path)
    with path.open("rb", buffering=0) as file:
        return WriteLog(path, tuple(_read_entries(file.fileno(), disk_size, counted)))


def count_flushed(path: Path) -> int:
    """The number of entries up to and with the last flush, of the guest or of QEMU itself; 0 before the first flush.

    Raises:
        WriteLogError: the log is damaged.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        block = file.read(_SUPERBLOCK.size)
    if len(block) < _SUPERBLOCK.size or not any(block):
        return 0
    magic, version, count, sector = _SUPERBLOCK.unpack(block)
    if (magic, version, sector) != (_MAGIC, _VERSION, SECTOR):
        raise WriteLogError(f"its superblock is not one of version {_VERSION} with sectors of {SECTOR} bytes")
    return int(count)


def _read_entries(fd: int, disk_size: int, counted: int) -> Iterator[Entry]:
    """The entries of the open log; the superblock counts the first *counted*."""
    end = os.fstat(fd).st_size
    at, number = SECTOR, 0
    while True:
        header = os.pread(fd, _ENTRY.size, at)
        if len(header) < _ENTRY.size or not any(header):
            break
        sector, sectors, flags, _ = _ENTRY.unpack(header)
        offset, size = sector * SECTOR, sectors * SECTOR
        is_valid = not flags & ~_ALL_FLAGS and offset + size <= disk_size
        following = at + SECTOR + (0 if flags & Flag.DISCARD else size)
        if not is_valid or following > end:
            # The last entries may be incomplete, as QEMU was killed while it wrote them.
            break
        yield Entry(offset, size, Flag(flags), at + SECTOR)
        at, number = following, number + 1
    if number < counted:
        raise WriteLogError(f"it has {counted} entries, but entry {number} at byte {at} is not valid")
