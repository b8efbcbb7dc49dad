"""Read a tar archive that may be hostile: ustar, GNU's and pax' extensions, sparse files (tar(5)).

The standard library's `tarfile` parses each header. The rest of it does not fit: it holds every member and every
extended header in memory, and takes a damaged header for the end of the archive.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

_BLOCK = 512
_CHUNK = 1 << 17
# A path has at most 4,096 bytes (PATH_MAX).
_EXTENDED_HEADER = 1 << 16
_HOLES = 1 << 16
_MAX_HEADERS = 16
_SPARSE = b"S"
_GLOBAL = (b"g",)
_PAX = (b"x", b"X")


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    SYMBOLIC_LINK = "symbolic link"
    HARD_LINK = "hard link"
    FIFO = "FIFO"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"


_KINDS = {
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMBOLIC_LINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER_DEVICE,
    tarfile.BLKTYPE: Kind.BLOCK_DEVICE,
}


class DamagedArchive(Exception):
    """The bytes are not a tar archive, or the archive ends too early."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive. Names are decoded as `os.fsdecode` does; any of them may be hostile.

    Attributes:
        name: its path in the archive.
        kind: what it is.
        mode: its permission bits.
        modified: its modification time, in seconds.
        size: its size in bytes, holes included.
        link: where a link points to.
        pieces: offset and length of each piece of data; the rest is holes.
    """

    name: str
    kind: Kind
    mode: int
    modified: float
    size: int
    link: str
    pieces: Sequence[tuple[int, int]]


class TarReader:
    """Reads members one after the other, in bounded memory.

    Args:
        read: returns at most so many bytes of the archive, and none at its end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._member: Member | None = None
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[Member]:
        """Each member; its data can be read until the next one is asked for.

        Raises:
            DamagedArchive: this is not an archive, or not a whole one.
        """
        while (member := self._next()) is not None:
            yield member

    def data(self) -> Iterator[tuple[int, bytes]]:
        """The data of the current member: each chunk with its offset in the file."""
        pieces = self._member.pieces if self._member is not None else ()
        for offset, length in pieces:
            at, end = offset, offset + length
            while at < end:
                chunk = self._take(min(_CHUNK, end - at))
                yield at, chunk
                at += len(chunk)

    def _next(self) -> Member | None:
        self._skip(self._left + self._padding)
        names: dict[str, bytes] = {}
        pax: Mapping[str, str] = {}
        for _ in range(_MAX_HEADERS):
            block = self._exactly(_BLOCK)
            if not block.strip(b"\0"):
                return None
            header = _parse(block)
            self._left, self._padding = header.size, -header.size % _BLOCK
            if header.type == tarfile.GNUTYPE_LONGNAME:
                names["path"] = self._extended_header(header).split(b"\0")[0]
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                names["linkpath"] = self._extended_header(header).split(b"\0")[0]
            elif header.type in _PAX:
                pax = _parse_pax(self._extended_header(header))
            elif header.type in _GLOBAL:
                # GNU tar and git write comments there, and nothing else that an archive of one program needs.
                self._extended_header(header)
            else:
                self._member = self._build(header, block, names, pax)
                return self._member
        raise DamagedArchive(f"a file in it has more than {_MAX_HEADERS} headers")

    def _build(
        self, header: tarfile.TarInfo, block: bytes, names: Mapping[str, bytes], pax: Mapping[str, str]
    ) -> Member:
        known = {name: value.decode(errors="surrogateescape") for name, value in names.items()} | dict(pax)
        if any(name.startswith("GNU.sparse.") for name in pax):
            raise DamagedArchive("it has a sparse file in pax format, which is not supported")
        stored = _number(known.get("size"), header.size)
        self._left, self._padding = stored, -stored % _BLOCK
        kind = _KINDS.get(header.type, Kind.FILE)
        size, pieces = stored, [(0, stored)]
        if header.type == _SPARSE:
            size, pieces = self._sparse_map(block, stored)
        elif kind is not Kind.FILE:
            # The size of a hard link is that of the file; no data follows.
            self._left = self._padding = size = 0
            pieces = []
        return Member(
            name=known.get("path", header.name),
            kind=kind,
            mode=header.mode & 0o7777,
            modified=_time(known.get("mtime"), header.mtime),
            size=size,
            link=known.get("linkpath", header.linkname),
            pieces=pieces,
        )

    def _sparse_map(self, block: bytes, stored: int) -> tuple[int, list[tuple[int, int]]]:
        """The size and the pieces of a sparse file in GNU's old format; its map goes on in blocks of their own."""
        pieces: list[tuple[int, int]] = []
        fields, more, size = block[386:482], block[482], _octal(block[483:495])
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at] == 0:
                    break
                pieces.append((_octal(fields[at : at + 12]), _octal(fields[at + 12 : at + 24])))
            if not more:
                break
            if len(pieces) > _HOLES:
                raise DamagedArchive(f"a file in it has more than {_HOLES} holes")
            fields = self._exactly(_BLOCK)
            more = fields[504]
            fields = fields[:504]
        end = 0
        for offset, length in pieces:
            if offset < end or length < 0:
                raise DamagedArchive("the pieces of a sparse file overlap")
            end = offset + length
        if sum(length for _, length in pieces) != stored or end > size:
            raise DamagedArchive("the pieces of a sparse file do not make up its size")
        return size, pieces

    def _extended_header(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _EXTENDED_HEADER:
            raise DamagedArchive(f"a header in it has {header.size} bytes")
        data = self._exactly(self._left)
        self._skip(self._padding)
        self._left = self._padding = 0
        return data

    def _take(self, most: int) -> bytes:
        chunk = self._read(most)
        if not chunk:
            raise DamagedArchive("it ends too early")
        self._left -= len(chunk)
        return chunk

    def _exactly(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = self._read(size)
            if not chunk:
                raise DamagedArchive("it ends too early")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(_CHUNK, size)))


def _parse(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise DamagedArchive(f"a header in it is damaged: {error}") from error
    if header.size < 0:
        raise DamagedArchive("a file in it has a negative size")
    return header


def _parse_pax(data: bytes) -> dict[str, str]:
    """The records of a pax header: ``LENGTH KEY=VALUE`` and a newline, one after the other."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        length, _, _ = data[at : at + 8].partition(b" ")
        if not length.isdigit() or not len(length) < int(length) <= len(data) - at:
            raise DamagedArchive("a pax header in it is damaged")
        record = data[at + len(length) + 1 : at + int(length) - 1]
        key, _, value = record.partition(b"=")
        records[key.decode(errors="surrogateescape")] = value.decode(errors="surrogateescape")
        at += int(length)
    return records


def _octal(field: bytes) -> int:
    try:
        if field[:1] in (b"\x80", b"\xff"):
            return int.from_bytes(field[1:], "big")
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DamagedArchive("a number in it is damaged") from error


def _number(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DamagedArchive("a number in it is damaged")
    return int(text)


def _time(text: str | None, otherwise: float) -> float:
    try:
        return otherwise if text is None else float(text)
    except ValueError:
        return otherwise
