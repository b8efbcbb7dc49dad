"""Runs: the folder of each process that has guests, and its removal if the process is dead.

A run's folder contains a lock file and one folder for each guest. The run's process or its guardian holds the lock as
long as it lives. If another process can take a folder's lock, the run that owned it is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_xhyve.host.guest_folder import PIDFILE, RECORD
from pytest_xhyve.host.locks import flock_within, take_lock
from pytest_xhyve.host.privilege import kill
from pytest_xhyve.host.processes import find_processes, find_start, is_running
from pytest_xhyve.host.vanishing import find_existing
from pytest_xhyve.model.clock import monotonic

_LOCK = ".lock"  # not a valid name of a guest
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.01
# PID_MAX_LIMIT (include/linux/threads.h in Linux); a Mac has fewer.
_MAX_PID = 1 << 22
_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "image": str,
    "image_disk": str,
    "uuid": str,
    "hypervisor": str,
    "pid": int,
    "owner": int,
    "started": (int, float),
}


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """A running guest of this host, as its file in the run's folder describes it.

    Attributes:
        name: the guest's name.
        image: its image's name.
        image_disk: the disk that it was cloned from.
        uuid: the machine's UUID.
        hypervisor: the hypervisor's name.
        pid: the hypervisor's process id.
        owner: the id of the process that started the guest; it may be dead.
        owner_start: when that process started, as `find_start` has it; None if it is not known.
        started: when the hypervisor was started, in seconds since the epoch.
        folder: the guest's folder.
        kept: for a kept guest: ``by`` (the test), ``since`` and ``run``; None for all others.
        ssh: the command line that logs in to the guest; empty if it is not known.
        test: the test, class, module or session that it was started for; empty if there is none yet.
        run: for a guest that all workers of a run share: the id of the run; empty for all others.
    """

    name: str
    image: str
    image_disk: str
    uuid: str
    hypervisor: str
    pid: int
    owner: int
    started: float
    folder: Path
    kept: Mapping[str, Any] | None = None
    ssh: tuple[str, ...] = field(default=())
    owner_start: float | None = None
    test: str = ""
    run: str = ""

    @property
    def outlives_owner(self) -> bool:
        """Whether the guest runs on when the process that started it ends."""
        return bool(self.kept or self.run)

    @classmethod
    def read(cls, path: Path) -> GuestRecord | None:
        """The record at *path*, or None if it is missing, incomplete or damaged: a guest may be being made."""
        try:
            content = json.loads(path.read_text())
            values = {key: content[key] for key in _TYPES}
            kept, ssh, test = content.get("kept"), content.get("ssh", []), content.get("test") or ""
            run = str(content.get("run") or "")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        # A disk that was full, or a person, may have left anything there.
        are_right = all(isinstance(values[key], kind) for key, kind in _TYPES.items())
        if not are_right or not 0 < values["pid"] <= _MAX_PID or not 0 < values["owner"] <= _MAX_PID:
            return None
        if not isinstance(kept, dict | None) or not isinstance(ssh, list) or not isinstance(test, str):
            return None
        start = content.get("owner_start")
        return cls(folder=path.parent, kept=kept, ssh=tuple(ssh), owner_start=start, test=test, run=run, **values)


@contextmanager
def new_run(folder: Path) -> Iterator[tuple[Path, int]]:
    """Create a run's folder in *folder*; yield it and the descriptor of its lock. The guardian removes the folder.

    The folder gets its final name after it is locked, so that other processes do not take it for a dead run's. At the
    end of the block it is removed, unless a kept guest is in it.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    being_made = folder / f".{name}"
    being_made.mkdir(mode=0o700)
    try:
        fd = os.open(being_made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        # For example, the disk is full.
        being_made.rmdir()
        raise
    try:
        flock_within(fd, fcntl.LOCK_EX)
        being_made.rename(folder / name)
        yield folder / name, fd
    finally:
        # If there was a guardian, it has removed the folder already.
        for left in (being_made, folder / name):
            if not any(guest.outlives_owner for guest in live_guests(folder, name)):
                shutil.rmtree(left, ignore_errors=True)
        os.close(fd)


def live_guests(folder: Path, run: str = "*") -> list[GuestRecord]:
    """The guests in *folder* whose process runs: of the run named *run*, or of all runs, also of dead ones."""
    records = (GuestRecord.read(path) for path in find_existing(folder, f"{run}/*/{RECORD}"))
    return [record for record in records if record is not None and is_running(record.pid)]


def kept_lans(folder: Path, run: str) -> list[Path]:
    """The folders of the switches in *folder* that the run named *run* has kept for its kept guests."""
    return [path.parent for path in find_existing(folder, f"{run}/*/{RECORD}") if _is_kept_lan(path)]


def _is_kept_lan(record: Path) -> bool:
    try:
        content = json.loads(record.read_text())
        return bool("lan" in content and content["kept"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def reap(folder: Path) -> list[Path]:
    """Kill the hypervisors of dead runs in *folder*, then remove these runs' folders.

    Returns:
        the folders that were removed.
    """
    dead = []
    for run in sorted(folder.iterdir()):
        fd = _try_lock(run)
        if fd is not None:
            try:
                kill_hypervisors_of(run)
                shutil.rmtree(run, ignore_errors=True)
                dead.append(run)
            finally:
                os.close(fd)
    return dead


def reap_kept(folder: Path) -> list[GuestRecord]:
    """End the kept guests in *folder* whose owner is dead.

    Returns:
        the guests that were removed.
    """
    kept = [guest for guest in live_guests(folder) if guest.kept and not _owner_lives(guest)]
    return [guest for guest in kept if end_kept(guest)]


def end_guests_of(folder: Path, run: str) -> None:
    """End the guests in *folder* that all workers of *run* have shared."""
    for guest in live_guests(folder):
        if guest.run == run:
            end_kept(guest)


def _owner_lives(guest: GuestRecord) -> bool:
    """Whether the process that started *guest* still runs; a later process with the same id does not count."""
    return is_running(guest.owner) and guest.owner_start in (None, find_start(guest.owner))


def end_kept(guest: GuestRecord) -> bool:
    """Kill the kept *guest*; its guardian removes its files.

    Returns:
        whether the guest is removed.
    """
    kill_hypervisor(guest)
    end = monotonic() + _END_SECONDS
    while guest.folder.exists():
        if monotonic() > end:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def kill_hypervisor(guest: GuestRecord) -> bool:
    """Kill the hypervisor of *guest*, and no other process that has got its id since.

    Returns:
        whether the hypervisor still ran.
    """
    if guest.pid not in find_hypervisors_of(guest.folder.parent):
        return False
    kill([guest.pid])
    return True


def living_runs(folder: Path) -> list[float]:
    """For each run in *folder* whose process or guardian is alive: when it began, in seconds since the epoch."""
    began = []
    for run in folder.iterdir():
        fd = _try_lock(run)
        if fd is not None:
            os.close(fd)
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # The lock file is never written to, so its time is that of its creation.
            began.append((run / _LOCK).stat().st_mtime)
    return began


def _try_lock(run: Path) -> int | None:
    """Take the lock of *run* and return its descriptor; None if the run has an owner."""
    creator = run.name.lstrip(".").partition("-")[0]
    creator_lives = creator.isdecimal() and is_running(int(creator))
    if creator_lives and run.name.startswith("."):
        return None
    try:
        fd = os.open(run / _LOCK, os.O_RDWR | os.O_CLOEXEC | (0 if creator_lives else os.O_CREAT), 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not take_lock(fd):
        os.close(fd)
        return None
    return fd


def find_hypervisors_of(run: Path) -> list[int]:
    """The process ids of the hypervisors of the guests in the folder *run*.

    A hypervisor is found by its command line, which names a pidfile in the guest's folder. So this also finds a
    hypervisor whose record is not written yet. It does not find a later process with the same id, nor a process that
    only reads the guest's files.
    """
    pidfile = re.compile(rf"{re.escape(f'{run}{os.sep}')}\S+{re.escape(f'{os.sep}{PIDFILE}')}(?: |$)")
    return [process.pid for process in find_processes(f"{run}{os.sep}") if pidfile.search(process.command)]


def kill_hypervisors_of(run: Path) -> None:
    """Kill the hypervisors of the guests in the folder *run*, and wait until they have ended."""
    pids = find_hypervisors_of(run)
    kill(pids)
    end = monotonic() + _END_SECONDS
    while any(map(is_running, pids)) and monotonic() < end:
        time.sleep(_LOOK_SECONDS)
