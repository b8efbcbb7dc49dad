"""A folder for each test, with what is known of its guests."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_MADE = "made.txt"
_CONSOLE = "console.log"
_JOURNAL = "journal.log"
_FETCHED = "fetched"
# Before the number of a rerun; no test's own folder has it in its name without a digest behind it.
_RERUN = ".rerun-"
# A file's name may have 255 bytes (NAME_MAX); some of it is left for others.
_NAME_LENGTH = 150
_DIGITS = 8
_JOURNAL_SECONDS = 30.0
_JOURNAL_BYTES = 16 << 20


class Artifacts:
    """The folders in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: set[Path] = set()
        self._tries: Counter[str] = Counter()

    def begin(self, test: str) -> None:
        """The test with this node id begins, for the first time or again: each time has a folder of its own."""
        self._tries[test] += 1

    def save(self, test: str, guest: Guest, evidence: Evidence, since: float | None) -> None:
        """Save what is known of *guest* while *test* used it.

        Args:
            test: the test's node id.
            guest: may be off.
            evidence: what is known of it.
            since: where the test began, as `time.time` counts; None for all of its journal.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.save_evidence(test, evidence)
        (folder / _JOURNAL).write_text(_journal(guest, since), errors="backslashreplace")

    def save_evidence(self, test: str, evidence: Evidence) -> Path:
        """Save what is known of a guest that cannot be asked any more; its folder.

        Raises:
            OSError: it cannot be written.
        """
        folder = self._of(test, evidence.name)
        (folder / _MADE).write_text("\n".join(evidence.made) + "\n")
        (folder / _CONSOLE).write_text(evidence.console, errors="backslashreplace")
        return folder

    def save_fetched(self, test: str, guest: Guest, local: Path) -> None:
        """Save a copy of what *test* has copied from *guest* to *local*.

        Raises:
            OSError: it cannot be written.
        """
        folder = self._of(test, guest.name) / _FETCHED
        folder.mkdir(exist_ok=True)
        again = (f"{local.stem}-{number}{local.suffix}" for number in count(2))
        target = folder / next(name for name in chain([local.name], again) if not (folder / name).exists())
        if local.is_dir() and not local.is_symlink():
            shutil.copytree(local, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(local, target, follow_symlinks=False)

    def _of(self, test: str, name: str) -> Path:
        readable, reruns = folder_name(test), self._tries[test] - 1
        folder = self._folder / (f"{readable}{_RERUN}{reruns}" if reruns > 0 else readable) / name
        if folder not in self._begun:
            # What an earlier run has left would be taken for this one's.
            left = {folder} if (folder / _MADE).exists() else set()
            if reruns <= 0:
                left |= {made.parents[1] for made in self._folder.glob(f"{readable}{_RERUN}*/*/{_MADE}")}
            for earlier in left:
                shutil.rmtree(earlier)
            self._begun.add(folder)
        # Consoles and journals may have secrets in them.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def folder_name(test: str) -> str:
    """The name of the folder of the test with this node id: readable, and another one for each test."""
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", test).strip("-.")
    if readable == test.replace("::", "-").replace("/", "-") and "-" not in test and len(readable) <= _NAME_LENGTH:
        return readable
    digest = hashlib.sha256(test.encode()).hexdigest()[:_DIGITS]
    return f"{readable[:_NAME_LENGTH].rstrip('-.')}-{digest}"


def _journal(guest: Guest, since: float | None) -> str:
    """The guest's journal, or the kernel's messages where it has none; why not, where it cannot be had."""
    if not guest.is_healthy():
        return "(the guest could not be asked for its journal: it did not answer any more)\n"
    begin = "" if since is None else f" --since=@{since:.0f}"
    line = (
        f"{{ journalctl --no-pager --quiet --boot --output=short-precise{begin} 2>/dev/null || dmesg; }} "
        f"| tail -c {_JOURNAL_BYTES}"
    )
    try:
        done = guest.run(line, check=False, timeout=_JOURNAL_SECONDS, user="root")
    except XhyveError as error:
        return f"(the guest could not be asked for its journal: {error})\n"
    return done.stdout or f"(nothing)\n{done.stderr}"
