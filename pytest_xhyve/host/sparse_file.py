"""Read and write files with holes as a stream: a hole is zeros on the way, and a hole again in the copy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 1 << 20
# The usual size of a block of a file system; a hole is never smaller.
_BLOCK = 1 << 12
_ZEROS = bytes(_CHUNK)


def read_pieces(path: Path) -> Iterator[bytes]:
    """The content of the file at *path*, in pieces; holes are not read (lseek(2), SEEK_DATA).

    Raises:
        OSError: the file cannot be read, or becomes shorter meanwhile.
    """
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            data = _next_data(file.fileno(), at, size)
            while at < data:
                piece = _ZEROS[: min(_CHUNK, data - at)]
                at += len(piece)
                yield piece
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE) if at < size else size
            while at < end:
                content = os.pread(file.fileno(), min(_CHUNK, end - at), at)
                if not content:
                    raise OSError(errno.EIO, "the file became shorter while it was read", str(path))
                at += len(content)
                yield content


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write *pieces* to a new file at *path* that only this user can read; blocks of zeros become holes.

    Raises:
        FileExistsError: something has this name.
        OSError: the file cannot be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        at = 0
        for piece in pieces:
            for begin, end in _data_in(piece):
                _write_at(file.fileno(), piece[begin:end], at + begin)
            at += len(piece)
        file.truncate(at)


def _data_in(piece: bytes) -> Iterator[tuple[int, int]]:
    """Where *piece* has blocks that are not zeros: the begin and the end of each run of them."""
    begin = None
    for at in range(0, len(piece), _BLOCK):
        block = piece[at : at + _BLOCK]
        if block == _ZEROS[: len(block)]:
            if begin is not None:
                yield begin, at
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        yield begin, len(piece)


def _next_data(fd: int, at: int, size: int) -> int:
    """Where the next data after *at* begins; *size* if there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size


def _write_at(fd: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
