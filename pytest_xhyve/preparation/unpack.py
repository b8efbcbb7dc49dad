"""Unpack a compressed disk into the cache folder, once for each content of the file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pytest_xhyve.formats.compression import DamagedFile, decompressed
from pytest_xhyve.host.digests import known_digest, remember_digest
from pytest_xhyve.host.home import Home, about_room
from pytest_xhyve.host.locks import locked
from pytest_xhyve.images.publishing import new_workspace, seal
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.values import format_size
from pytest_xhyve.preparation.disk_file import DiskFile, look

FOLDER = "unpacked"
"""The folder in the cache folder."""

DISK = "disk"
"""The name of the disk in the folder of its content."""

_DIGITS = 16
_BLOCK = 1 << 16
_ZEROS = bytes(_BLOCK)
# What stays free, so that a guest can still write.
_RESERVE = 256 << 20
_CHECK_BYTES = 64 << 20
# More than any disk of a test has; a file of zeros takes no space, and could go on for ever.
_MAX_BYTES = 4 << 40
_MAX_SECONDS = 3600.0
_PROGRESS_SECONDS = 10.0


def unpacked_path(digest: str, home: Home) -> Path:
    """Where the disk is, or will be, that is in the compressed file with the SHA-256 *digest*."""
    return home.path / FOLDER / digest[:_DIGITS] / DISK


def unpack(path: Path, compression: str, home: Home, report: Callable[[str], None]) -> Path:
    """The disk in the compressed file at *path*; it is unpacked if that has not happened yet.

    Holes of the disk stay holes. If two processes unpack the same file, the second waits for the first.

    Args:
        path: the file, which is only read.
        compression: ``gzip``, ``xz`` or ``zstd``.
        home: the cache folder.
        report: called with a line every few seconds.

    Raises:
        ImageError: the file is damaged or cut off, it is too large, or the cache folder has not enough space.
    """
    checked = home.folder("checked")
    folder = home.folder(FOLDER)
    target = unpacked_path(known_digest(path, checked), home)
    key = target.parent.name
    with locked(folder / f"{key}.lock", f"unpacks {path.name}", report=report):
        if target.exists():
            return target
        with new_workspace(folder, key) as workspace:
            report(f"unpacking {path.name} ({format_size(path.stat().st_size)}) into {folder}; this is done once")
            try:
                digest = _Unpacking(path, compression, report).run(workspace / DISK)
            except DamagedFile as error:
                raise ImageError(f"{path} is damaged or cut off: {error}\n  copy the file again") from error
            seal(workspace / DISK)
            workspace.rename(target.parent)
        remember_digest(target, digest, checked)
    return target


def look_inside(path: Path, home: Home, report: Callable[[str], None]) -> DiskFile:
    """The disk at *path*; if it is compressed, the unpacked one in the cache folder.

    Raises:
        ConfigurationError: the file is not a disk.
        ImageError: the disk is damaged, or cannot be unpacked.
    """
    disk = look(path)
    return look(unpack(disk.path, disk.compression, home, report)) if disk.compression else disk


class _Unpacking:
    """Unpacks one file."""

    def __init__(self, path: Path, compression: str, report: Callable[[str], None]) -> None:
        self._path = path
        self._compression = compression
        self._report = report
        self._begin = self._reported = monotonic()

    def run(self, target: Path) -> str:
        """Write the disk to the new file *target*; return its SHA-256."""
        sha256 = hashlib.sha256()
        size = written = checked = 0
        with self._path.open("rb") as source, target.open("xb") as disk:
            target.chmod(0o600)
            for piece in decompressed(source, self._compression):
                sha256.update(piece)
                written += _write_sparsely(disk, piece)
                size += len(piece)
                if size > _MAX_BYTES:
                    raise ImageError(f"{self._path} has a disk of more than {format_size(_MAX_BYTES)} in it")
                if written - checked >= _CHECK_BYTES:
                    checked = written
                    self._check_room(target.parent)
                self._check_time(source)
            disk.truncate(size)
        return sha256.hexdigest()

    def _check_room(self, folder: Path) -> None:
        if shutil.disk_usage(folder).free < _RESERVE:
            raise ImageError(f"no space left to unpack {self._path}\n{about_room(folder)}")

    def _check_time(self, source: IO[bytes]) -> None:
        now = monotonic()
        if now - self._begin > _MAX_SECONDS:
            raise ImageError(f"to unpack {self._path} took longer than {_MAX_SECONDS:.0f} s; unpack it yourself")
        if now - self._reported > _PROGRESS_SECONDS:
            self._reported = now
            share = source.tell() / max(1, self._path.stat().st_size)
            self._report(f"  unpacked {share:.0%} of {self._path.name} after {now - self._begin:.0f} s")


def _write_sparsely(disk: IO[bytes], piece: bytes) -> int:
    """Write *piece*, but leave a hole for each block of zeros; return the number of bytes that were written."""
    written = 0
    for at in range(0, len(piece), _BLOCK):
        block = piece[at : at + _BLOCK]
        if block == _ZEROS[: len(block)]:
            disk.seek(len(block), 1)
        else:
            written += disk.write(block)
    return written
