"""The SHA-256 of files, remembered until a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from pytest_xhyve.host.locks import locked


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
    with locked(record.with_suffix(".lock"), f"reads {path}"):
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
    except (OSError, ValueError, LookupError, TypeError):
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


def _record_of(path: Path, cache: Path) -> Path:
    return cache / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"


def _state_of(path: Path) -> list[Any]:
    """Values that change whenever the file does; a program can set every time stamp but the last (stat(2))."""
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
