"""Check, before a guest boots, that an image's files match its manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_xhyve.formats.mbr import SECTOR, has_boot_loader, has_signature
from pytest_xhyve.images.files import check_files, fix_for
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import Firmware


def check_image(image: Image, cache: Path) -> None:
    """Check the files of *image*; the disk's SHA-256 is computed again only if the file has changed.

    Args:
        image: the image.
        cache: the folder for the digests of files and the state of each file.

    Raises:
        ImageError: a file is missing, unreadable, truncated, altered, or of the wrong kind.
    """
    check_files(image)
    if image.sha256 is not None:
        _check_digest(image, cache)


def check_boots_by(firmware: Firmware | None, image: Image) -> None:
    """Check that the disk of *image* has what *firmware* boots, as far as its first sector shows.

    Args:
        firmware: what boots the guest; None for a direct boot of the kernel.
        image: an image whose files were checked.

    Raises:
        ImageError: no guest can boot from the disk by *firmware*.
    """
    if firmware is None or image.format != "raw":
        return
    with image.disk.open("rb") as disk:
        sector = disk.read(SECTOR)
    if has_signature(sector) and (firmware == "uefi" or has_boot_loader(sector)):
        return
    missing = "boot loader for a BIOS" if has_signature(sector) else "boot loader, and no partition table"
    direct = "\n  leave firmware out: guests of this image boot its kernel directly" if image.kernel is not None else ""
    raise ImageError(f'firmware="{firmware}": {image.disk} has no {missing}{direct}')


def digest_of(path: Path) -> str:
    """The SHA-256 of the file at *path*, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path, cache: Path) -> str:
    """Like `digest_of`, but the file is read again only if it has changed."""
    # The usual case needs no lock.
    known = remembered_digest(path, cache)
    if known is not None:
        return known
    record = _record_of(path, cache)
    with FileLock(record.with_suffix(".lock")):
        known = remembered_digest(path, cache)
        if known is not None:
            return known
        digest = digest_of(path)
        remember_digest(path, digest, cache)
        return digest


def remembered_digest(path: Path, cache: Path) -> str | None:
    """The SHA-256 of the file at *path* if it is known without reading the file, or else None."""
    try:
        known = json.loads(_record_of(path, cache).read_text())
        return str(known["sha256"]) if known["state"] == _state_of(path) else None
    except (OSError, ValueError, KeyError):
        # The record or the file is missing, or the record is damaged.
        return None


def remember_digest(path: Path, digest: str, cache: Path) -> None:
    """Record in *cache* that the file at *path*, in its present state, has the SHA-256 *digest*."""
    record = _record_of(path, cache)
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps({"path": str(path.resolve()), "state": _state_of(path), "sha256": digest}))
    # Another process that has read the same file may have renamed it.
    with contextlib.suppress(FileNotFoundError):
        fresh.replace(record)


def _check_digest(image: Image, cache: Path) -> None:
    digest = known_digest(image.disk, cache)
    if digest != image.sha256:
        raise ImageError(
            f"{image.disk} was altered: its SHA-256 is {digest}, but {image.manifest} states {image.sha256}\n"
            f"  {fix_for(image)}"
        )


def _record_of(path: Path, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"


def _state_of(path: Path) -> list[Any]:
    """Values that change whenever the file does; a program can set every time stamp but the last (stat(2))."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
