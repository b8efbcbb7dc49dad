"""Remove what is not needed from the cache folder.

Everything that is removed can be made again, but for saved guests and for systems that a person has installed.

`pytest_xhyve.cli.prune_candidates` finds what that may be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.cli.cache_listing import iso_time
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.errors import XhyveError


@dataclass(frozen=True, slots=True)
class PruneCandidate:
    """Something that can be removed.

    Attributes:
        kind: ``template``, ``leftover``, ``earlier build``, ``image``, ``prepared disk``, ``layer``, ``saved image``,
            ``unpacked disk``, ``installed system``, ``pulled disk`` or ``digests``.
        name: its name, for people.
        path: its path.
        size: bytes on the disk.
        used: when it was last used, as far as known, in seconds since the epoch.
        blocked_by: returns what it is needed for, or an empty text; called before it is removed.
        remove: removes it, unless something needs it by now; returns whether it is removed.
        pretend: called in its place if nothing is to be removed, so that what only it needs counts as free.
    """

    kind: str
    name: str
    path: Path
    size: int
    used: float
    blocked_by: Callable[[], str]
    remove: Callable[[], bool]
    pretend: Callable[[], None] = lambda: None

    def as_json(self) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "bytes": self.size,
            "used_at": iso_time(self.used),
        }


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be removed, and what was kept, with the reason."""

    removed: tuple[PruneCandidate, ...]
    kept: tuple[tuple[PruneCandidate, str], ...]

    @property
    def freed(self) -> int:
        """The freed disk space, in bytes."""
        return sum(candidate.size for candidate in self.removed)

    def as_json(self, *, dry_run: bool) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "dry_run": dry_run,
            "removed": [candidate.as_json() for candidate in self.removed],
            "kept": [candidate.as_json() | {"reason": reason} for candidate, reason in self.kept],
            "freed": self.freed,
        }


def remove(candidates: list[PruneCandidate], home: Home, *, dry_run: bool = False) -> Pruned:
    """Remove those *candidates* that are not needed; with *dry_run*, only find them.

    Raises:
        XhyveError: this user may not write to *home*.
    """
    if candidates and not dry_run and not os.access(home.path, os.W_OK | os.X_OK):
        raise XhyveError(
            f"cannot remove anything in {home.path}: this user may not write to it\n"
            f"  set {HOME_VARIABLE} to another folder, or run the command as the folder's owner"
        )
    removed, kept = [], []
    for candidate in candidates:
        if not candidate.path.exists():
            # Another process has removed it.
            continue
        try:
            reason = candidate.blocked_by()
            if not reason and dry_run:
                candidate.pretend()
            elif not reason and not candidate.remove():
                reason = candidate.blocked_by() or "it could not be removed completely"
        except OSError as error:
            reason = f"cannot remove it: {error.strerror}"
        if reason:
            kept.append((candidate, reason))
        else:
            removed.append(candidate)
    return Pruned(tuple(removed), tuple(kept))
