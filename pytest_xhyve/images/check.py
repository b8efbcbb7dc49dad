"""Whether an image's files are what its manifest says, found out before anything boots."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_xhyve.images.files import check_files, cure
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image


def check_image(image: Image, cache: Path) -> None:
    """Check *image*'s files; its disk's SHA-256 is read once for each state that the disk was in.

    Args:
        image: the image.
        cache: the folder in which is kept which disks were read, and in which state.

    Raises:
        ImageError: a file is missing, unreadable, truncated, altered, or not of its kind.
    """
    check_files(image)
    if image.sha256 is not None:
        _check_digest(image, cache)


def digest_of(path: Path) -> str:
    """The SHA-256 of the file at *path*, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(path: Path, cache: Path) -> str:
    """As `digest_of`, read once for each state that the file was in."""
    record = _record_of(path, cache)
    with FileLock(record.with_suffix(".lock")):
        try:
            known = json.loads(record.read_text())
            if known["state"] == _state_of(path):
                return str(known["sha256"])
        except (OSError, ValueError, KeyError):
            # Nothing is known, or nothing that can be read.
            pass
        digest = digest_of(path)
        remember_digest(path, digest, cache)
        return digest


def remember_digest(path: Path, digest: str, cache: Path) -> None:
    """Keep in *cache* that the file at *path*, as it is now, has the SHA-256 *digest*."""
    record = _record_of(path, cache)
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps({"path": str(path.resolve()), "state": _state_of(path), "sha256": digest}))
    fresh.replace(record)


def _check_digest(image: Image, cache: Path) -> None:
    digest = known_digest(image.disk, cache)
    if digest != image.sha256:
        raise ImageError(
            f"{image.disk} was altered: its SHA-256 is {digest}, and {image.manifest} says {image.sha256}\n"
            f"  {cure(image)}"
        )


def _record_of(path: Path, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"


def _state_of(path: Path) -> list[Any]:
    """What changes whenever the file does; a program can set every time but the last (stat(2))."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
