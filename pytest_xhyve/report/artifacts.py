"""Save diagnostics of guests: a folder for each test."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.guest.journal import read_journal
from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.qemu_img import run_qemu_img
from pytest_xhyve.host.vanishing import find_existing
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_MADE = "made.txt"
_CONSOLE = "console.log"
_JOURNAL = "journal.log"
_FETCHED = "fetched"
SCREEN = "screen.png"
"""The picture of a guest's screen, in the guest's folder."""

# Comes before the number of a rerun; if the name of a test's own folder contains it, a digest follows.
_RERUN = ".rerun-"
# A file's name has at most 255 bytes (NAME_MAX); the rest is for suffixes.
_NAME_LENGTH = 150
_DIGITS = 8
_JOURNAL_SECONDS = 30.0
# Less than a command may print.
_JOURNAL_BYTES = 15 << 20


class Artifacts:
    """The folders of all tests, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: set[Path] = set()
        self._tries: Counter[str] = Counter()

    def begin(self, test: str) -> None:
        """Note that the test with this node id starts, for the first time or again; each time gets its own folder."""
        self._tries[test] += 1

    def save(self, test: str, guest: Guest, evidence: Evidence, since: float | None) -> None:
        """Save diagnostics of *guest* from the time when *test* used it.

        Args:
            test: the test's node id.
            guest: the guest; it may be powered off.
            evidence: its diagnostics.
            since: when the test started, in seconds since the epoch; None saves the whole journal.

        Raises:
            OSError: a file cannot be written.
        """
        folder = self.save_evidence(test, evidence)
        journal = read_journal(guest, since, max_bytes=_JOURNAL_BYTES, timeout=_JOURNAL_SECONDS)
        (folder / _JOURNAL).write_text(journal, errors="backslashreplace")

    def save_evidence(self, test: str, evidence: Evidence) -> Path:
        """Save *evidence* of a guest that may not respond any more; return the guest's folder.

        Raises:
            OSError: a file cannot be written.
        """
        folder = self._of(test, evidence.name)
        (folder / _MADE).write_text("\n".join(evidence.made) + "\n")
        (folder / _CONSOLE).write_text(evidence.console, errors="backslashreplace")
        if evidence.screen:
            (folder / SCREEN).write_bytes(evidence.screen)
        return folder

    def save_crash_disk(self, test: str, guest: Guest) -> None:
        """Save the disk of the crash state with which *test* has failed, as one qcow2 file.

        Raises:
            XhyveError: the disk cannot be converted.
        """
        assert guest._crash is not None
        state, disk = guest._crash
        target = self._of(test, guest.name) / f"crash-state-{state.number}.qcow2"
        done = run_qemu_img("convert", "-f", disk.format, "-O", "qcow2", str(disk.path), str(target))
        if done.returncode != 0:
            raise XhyveError(f"qemu-img cannot convert {disk.path}: {done.stderr.strip()}")

    def save_fetched(self, test: str, guest: Guest, local: Path) -> None:
        """Save a copy of *local*, which *test* has fetched from *guest*.

        Raises:
            OSError: a file cannot be written.
        """
        folder = self._of(test, guest.name) / _FETCHED
        folder.mkdir(exist_ok=True)
        again = (f"{local.stem}-{number}{local.suffix}" for number in count(2))
        target = folder / next(name for name in chain([local.name], again) if not (folder / name).exists())
        if local.is_dir() and not local.is_symlink():
            shutil.copytree(local, target, symlinks=True, dirs_exist_ok=True, copy_function=_copy)
        else:
            _copy(local, target)

    def _of(self, test: str, name: str) -> Path:
        readable, reruns = folder_name(test), self._tries[test] - 1
        folder = self._folder / (f"{readable}{_RERUN}{reruns}" if reruns > 0 else readable) / name
        if folder not in self._begun:
            # Remove what an earlier run has left; users would take it for the result of this run.
            left = {folder} if (folder / _MADE).exists() else set()
            if reruns <= 0:
                left |= {made.parents[1] for made in find_existing(self._folder, f"{readable}{_RERUN}*/*/{_MADE}")}
            for earlier in left:
                shutil.rmtree(earlier)
            self._begun.add(folder)
        # Consoles and journals may contain secrets.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder


def _copy(source: str | Path, target: str | Path) -> None:
    """As `shutil.copy2`, but holes stay holes: a guest's file may be longer than the host's disk."""
    if Path(source).is_symlink():
        shutil.copy2(source, target, follow_symlinks=False)
        return
    clone_file(Path(source), Path(target))
    shutil.copystat(source, target)


def folder_name(test: str) -> str:
    """The name of the folder of the test with this node id: readable, and different for each test."""
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", test).strip("-.")
    if readable == test.replace("::", "-").replace("/", "-") and "-" not in test and len(readable) <= _NAME_LENGTH:
        return readable
    digest = hashlib.sha256(test.encode()).hexdigest()[:_DIGITS]
    return f"{readable[:_NAME_LENGTH].rstrip('-.')}-{digest}"
