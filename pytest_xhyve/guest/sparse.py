"""Send files with holes into a guest, so that the holes stay holes.

GNU's tar reads them as members of the archive. BusyBox's tar reads none. For it, the archive has an empty file in their
place, and their pieces follow, which dd(1) writes to where they belong.
"""

from __future__ import annotations

import errno
import os
import shlex
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, cast

from pytest_xhyve.formats.pieces import Pieces
from pytest_xhyve.formats.sparse_tar import SparseMember
from pytest_xhyve.guest.connection import Connection
from pytest_xhyve.guest.send import send_stream
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.guest.streams import Input

# The pieces are whole blocks of this size, but for the end of the file.
_BLOCK = 1 << 16
# A hole that is smaller is sent: each piece is a program in the guest.
_LEAST_HOLE = 1 << 20
# On a command line, and in an archive.
_MAX_PIECES, _MAX_LISTED = 200, 20_000
PROBE = "case $(tar --version 2>/dev/null) in *GNU*) echo 1 ;; esac"
"""A shell line that prints 1 in a guest whose tar reads sparse files."""

_PIECE = 'dd of="$f" bs={block} seek={seek} count={count} iflag=fullblock conv=notrunc'


@dataclass(frozen=True, slots=True)
class _Sparse:
    """A file with holes.

    Attributes:
        path: the file on the host.
        name: its path below the folder in the guest.
        size: its size in bytes.
        modified: its modification time, in whole seconds.
        pieces: first block and number of blocks of each piece that is sent.
    """

    path: Path
    name: str
    size: int
    modified: int
    pieces: Sequence[tuple[int, int]]


@dataclass(slots=True)
class SparseFiles:
    """The files of one copy that have holes.

    Attributes:
        in_archive: whether the guest's tar reads them.
        found: those whose contents are left out of the archive, as it does not.
        waiting: those that come last in the archive, with their members.
    """

    in_archive: bool
    found: list[_Sparse] = field(default_factory=list)
    waiting: list[tuple[_Sparse, tarfile.TarInfo]] = field(default_factory=list)

    def leave_out(self, member: tarfile.TarInfo, path: Path) -> tarfile.TarInfo | None:
        """The *member* for the file at *path*, or None if `add` adds it since it has holes.

        If it has holes and the guest's tar does not read that, the member is empty, to be filled by `send`.
        """
        # A user who is not root could not write to it afterwards.
        if not member.isreg() or not member.mode & 0o200:
            return member
        # Another name of the file may come before the end of the archive.
        in_archive = self.in_archive and path.lstat().st_nlink == 1
        pieces = _find_pieces(path, member.size, _MAX_LISTED if in_archive else _MAX_PIECES)
        if pieces is None:
            return member
        file = _Sparse(path, member.name, member.size, int(member.mtime), pieces)
        if in_archive:
            self.waiting.append((file, member))
            return None
        self.found.append(file)
        member.size = 0
        return member

    def add(self, archive: tarfile.TarFile) -> None:
        """Add the files that `leave_out` has kept for the end of *archive*."""
        for file, member in self.waiting:
            pieces = [(first * _BLOCK, min(count * _BLOCK, file.size - first * _BLOCK)) for first, count in file.pieces]
            archive.addfile(SparseMember(member, file.size, pieces), cast("IO[bytes]", Pieces(_read(file))))

    def send(self, connection: Connection, as_user: Callable[[str], ShellLine], folder: str, what: str) -> None:
        """Fill the files in the guest's *folder*, which the archive has created.

        Args:
            connection: to the guest.
            as_user: turns a shell script into the line that runs it as the user who writes the copy.
            folder: the folder as the guest's shell reads it, quoted.
            what: what is done, for errors, such as ``put a to b``.

        Raises:
            XhyveError: the guest cannot write them.
        """
        for each in self.found:
            send_stream(connection, as_user(_script(each, folder)), what, partial(_write, each))


def _find_pieces(path: Path, size: int, most: int) -> list[tuple[int, int]] | None:
    """The pieces of the file at *path* that have data, *most* at most; None if there is no large hole in it."""
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if status.st_size != size or size - status.st_blocks * 512 < _LEAST_HOLE:
            return None
        least = _LEAST_HOLE
        while True:
            pieces = list(_merged(_data(file.fileno(), size), least))
            if len(pieces) <= most:
                break
            least *= 2
    sent = sum(count for _, count in pieces) * _BLOCK
    return pieces if size - sent >= _LEAST_HOLE else None


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each range with data (lseek(2), SEEK_DATA)."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, end
        at = end


def _merged(ranges: Iterator[tuple[int, int]], least: int) -> Iterator[tuple[int, int]]:
    """First block and number of blocks; holes of less than *least* bytes become part of a piece."""
    first = end = -1
    for begin, stop in ranges:
        block, after = begin // _BLOCK, -(-stop // _BLOCK)
        if first < 0:
            first = block
        elif (block - end) * _BLOCK >= least:
            yield first, end - first
            first = block
        end = after
    if first >= 0:
        yield first, end - first


def _script(file: _Sparse, folder: str) -> str:
    steps = [f'dd if=/dev/null of="$f" bs=1 seek={file.size} count=0']
    steps += [_PIECE.format(block=_BLOCK, seek=first, count=count) for first, count in file.pieces]
    # dd reports what it has copied.
    quiet = " && ".join(f"{step} 2>/dev/null" for step in steps)
    return f'cd -- {folder} && f={shlex.quote(f"./{file.name}")} && {quiet} && touch -d @{file.modified} "$f"'


def _write(file: _Sparse, stream: Input) -> None:
    for data in _read(file):
        stream.write(data)


def _read(file: _Sparse) -> Iterator[bytes]:
    """The content of the pieces of *file*, in parts."""
    with file.path.open("rb") as source:
        for first, count in file.pieces:
            source.seek(first * _BLOCK)
            left = min(count * _BLOCK, file.size - first * _BLOCK)
            while left:
                data = source.read(min(left, 1 << 17))
                if not data:
                    raise OSError(errno.EIO, "the file was truncated during the copy", os.fspath(file.path))
                yield data
                left -= len(data)
