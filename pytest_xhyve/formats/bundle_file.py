"""The file of a bundle: a tar archive that begins with a description and whose other members zstd has compressed.

A description is read without reading the rest. A member's size is known only once it is written, so its header is
written last. The member `_END` proves that the file is complete; zstd's checksums prove that its content is (RFC 8878,
section 3.1.1).
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

from pytest_xhyve.formats.compression import DamagedFile, decompressed

FORMAT = 1
"""The version of the format; a change that an older plugin cannot read raises it."""

_ABOUT = "about.json"
_END = "end"
_SUFFIX = ".zst"
# A guest, and what is saved of it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}/[a-z][a-z0-9.-]{0,30}")
_BLOCK = tarfile.BLOCKSIZE
_MOST_ABOUT = 64 << 20
# The fastest level that makes a guest's memory small enough.
_LEVEL = 1


class DamagedBundle(Exception):
    """A file is not a complete bundle; the message states what is wrong, as a sentence about the file without it."""


class BundleWriter:
    """Writes a bundle.

    Args:
        file: a new file, opened for reading and writing.
        about: the description, as plain data.
    """

    def __init__(self, file: IO[bytes], about: dict[str, Any]) -> None:
        # Runs that save no failure do not need it.
        import zstandard  # noqa: PLC0415

        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=os.cpu_count() or 1, write_checksum=True)
        content = json.dumps({"format": FORMAT, **about}).encode()
        self._write_header(_ABOUT, len(content))
        self._file.write(content)
        self._pad(len(content))

    def add(self, name: str, chunks: Iterable[bytes]) -> None:
        """Add the member *name* with the content *chunks*.

        Raises:
            OSError: the file cannot be written.
        """
        assert _NAME.fullmatch(name)
        begin = self._file.tell()
        self._write_header(name + _SUFFIX, 0)
        compressing = self._compressor.compressobj()
        for chunk in chunks:
            self._file.write(compressing.compress(chunk))
        self._file.write(compressing.flush())
        end = self._file.tell()
        size = end - begin - _BLOCK
        self._file.seek(begin)
        self._write_header(name + _SUFFIX, size)
        self._file.seek(end)
        self._pad(size)

    def finish(self) -> None:
        """Complete the bundle, and write it to the disk.

        Raises:
            OSError: the file cannot be written.
        """
        self._write_header(_END, 0)
        self._file.write(bytes(2 * _BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_header(self, name: str, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        self._file.write(member.tobuf(tarfile.GNU_FORMAT))

    def _pad(self, size: int) -> None:
        self._file.write(bytes(-size % _BLOCK))


class BundleReader:
    """Reads a bundle, which another person may have written: no member is written to a path that it names.

    Use `open` to make one.
    """

    def __init__(self, file: IO[bytes], about: dict[str, Any], members: dict[str, tarfile.TarInfo]) -> None:
        self._file = file
        self._members = members
        self.about = about
        """The description."""

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open the bundle at *path*, and check that it is complete.

        Raises:
            DamagedBundle: it is not a bundle, is cut off, has another version, or a member with an unexpected name.
            OSError: it cannot be read.
        """
        with path.open("rb") as file:
            about = _read_about(file)
            yield cls(file, about, _find_members(file))

    def names(self) -> list[str]:
        """The names of all members but the description."""
        return list(self._members)

    def size_of(self, name: str) -> int:
        """The compressed size of the member *name*, in bytes; 0 if there is none."""
        return self._members[name].size if name in self._members else 0

    def read(self, name: str) -> Iterator[bytes]:
        """The content of the member *name*, in pieces.

        Raises:
            DamagedBundle: there is no such member, or it is damaged.
        """
        if name not in self._members:
            raise DamagedBundle(f"has no {name}")
        try:
            # A descriptor of its own: several members are read at the same time.
            with Path(self._file.name).open("rb") as file:
                yield from decompressed(cast("IO[bytes]", _Part(file, self._members[name])), "zstd")
        except DamagedFile as error:
            raise DamagedBundle(f"is damaged: {name}: {error}") from error


class _Part(io.RawIOBase):
    """The compressed content of one member, as a file."""

    def __init__(self, file: IO[bytes], member: tarfile.TarInfo) -> None:
        file.seek(member.offset_data)
        self._file = file
        self._left = member.size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def read_about(path: Path) -> dict[str, Any]:
    """The description in the bundle at *path*; the rest is not read.

    Raises:
        DamagedBundle: it is not a bundle, or has another version.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _read_about(file)


def _read_about(file: IO[bytes]) -> dict[str, Any]:
    try:
        member = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedBundle("is not a bundle of pytest-xhyve") from error
    if member.name != _ABOUT or not member.isreg() or not 0 <= member.size <= _MOST_ABOUT:
        raise DamagedBundle("is not a bundle of pytest-xhyve")
    content = file.read(member.size)
    if len(content) < member.size:
        raise DamagedBundle("is cut off")
    try:
        about = json.loads(content)
        version = about["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedBundle("is damaged: its description is not valid") from error
    if version != FORMAT:
        raise DamagedBundle(
            f"has version {str(version)[:20]} of the format; this pytest-xhyve reads version {FORMAT}\n"
            "  use the version of pytest-xhyve that wrote it"
        )
    file.seek(-member.size % _BLOCK, os.SEEK_CUR)
    assert isinstance(about, dict)
    return about


def _find_members(file: IO[bytes]) -> dict[str, tarfile.TarInfo]:
    """The members that follow the description."""
    size = os.fstat(file.fileno()).st_size
    found: dict[str, tarfile.TarInfo] = {}
    while True:
        try:
            member = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DamagedBundle("is cut off") from error
        if member.name == _END:
            return found
        name = member.name.removesuffix(_SUFFIX)
        if member.size < 0 or not member.isreg() or name == member.name or not _NAME.fullmatch(name) or name in found:
            raise DamagedBundle(f"has an unexpected member: {member.name[:200]!r}")
        member.offset_data = file.tell()
        if member.offset_data + member.size > size:
            raise DamagedBundle("is cut off")
        file.seek(member.size + -member.size % _BLOCK, os.SEEK_CUR)
        found[name] = member
