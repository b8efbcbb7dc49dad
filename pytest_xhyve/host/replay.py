"""Write what a log of writes contains to a disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_xhyve.formats.write_log import Entry

_CHUNK = 1 << 20


class DiskWriter(Protocol):
    """A disk that is written to."""

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*."""

    def zero(self, offset: int, size: int) -> None:
        """Write *size* zeros at *offset*."""


class RawDisk:
    """A disk in a file without a format; see `DiskWriter`.

    Args:
        fd: a descriptor of the file, open for writing.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def zero(self, offset: int, size: int) -> None:
        for at in range(offset, offset + size, _CHUNK):
            self.write(at, bytes(min(_CHUNK, offset + size - at)))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one entry of a log that are on the disk.

    Attributes:
        offset: the first byte on the disk.
        size: the number of bytes.
        data: where they are in the log's file; None for zeros.
    """

    offset: int
    size: int
    data: int | None

    @classmethod
    def whole(cls, entry: Entry) -> Piece:
        """All bytes of *entry*."""
        return cls(entry.offset, entry.size, None if entry.is_discard else entry.data)


def replay(log: Path, pieces: Iterable[Piece], target: DiskWriter) -> None:
    """Write *pieces* of the log's file *log* to *target*, in their order.

    Raises:
        OSError: a file cannot be read or written.
    """
    with log.open("rb", buffering=0) as file:
        for piece in pieces:
            if piece.data is None:
                target.zero(piece.offset, piece.size)
                continue
            for done in range(0, piece.size, _CHUNK):
                size = min(_CHUNK, piece.size - done)
                data = os.pread(file.fileno(), size, piece.data + done)
                if len(data) != size:
                    raise OSError(f"{log} ended before byte {piece.data + done + size}")
                if data.count(0) == size:
                    # Zeros take no space.
                    target.zero(piece.offset + done, size)
                else:
                    target.write(piece.offset + done, data)
