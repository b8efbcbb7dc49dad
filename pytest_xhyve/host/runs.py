"""Runs: the folder of each process that has guests, and what is done when its owner died.

A run's folder holds a lock file, locked as long as the run's process or its guardian lives, and a folder a guest.
A folder whose lock can be had belongs to nobody any more.
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

import psutil

from pytest_xhyve.host.guardian_process import PIDFILE, RECORD
from pytest_xhyve.host.privilege import kill
from pytest_xhyve.host.processes import find_processes

_LOCK = ".lock"  # no guest can be named so
_END_SECONDS = 5.0
_LOOK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """A guest that is alive on this host, as its run's folder tells.

    Attributes:
        name: the guest's.
        image: its image's name.
        image_disk: the disk that it was cloned from.
        uuid: the machine's.
        hypervisor: the program's name.
        pid: the hypervisor's process.
        owner: the process that has, or had, the guest.
        started: when the hypervisor was started, as `time.time` counts.
        folder: the guest's.
        kept: of a guest that was left running: ``by`` (the test), ``since`` and ``run``; None for all others.
        ssh: the command line that logs in there; empty where it is not known.
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

    @classmethod
    def read(cls, path: Path) -> GuestRecord | None:
        """The record at *path*, or None when there is none (the guest is being made or taken away)."""
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            return cls(
                folder=path.parent,
                kept=content.get("kept"),
                ssh=tuple(content.get("ssh", ())),
                **{key: content[key] for key in cls.__slots__ if key not in ("folder", "kept", "ssh")},
            )
        except (OSError, ValueError, KeyError):
            return None


@contextmanager
def new_run(folder: Path) -> Iterator[tuple[Path, int]]:
    """A run's folder in *folder*, and the descriptor of its lock; the guardian removes the folder.

    The folder gets its name when it is locked already, so that nobody takes it for a dead run's. At the end of the
    block it is gone, but where a guest is kept in it.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    being_made = folder / f".{name}"
    being_made.mkdir(mode=0o700)
    try:
        fd = os.open(being_made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        # No space for the lock.
        being_made.rmdir()
        raise
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        being_made.rename(folder / name)
        yield folder / name, fd
    finally:
        # The guardian has done it before, if there was one.
        for left in (being_made, folder / name):
            if not any(guest.kept for guest in live_guests(folder, name)):
                shutil.rmtree(left, ignore_errors=True)
        os.close(fd)


def live_guests(folder: Path, run: str = "*") -> list[GuestRecord]:
    """The guests in *folder* whose process still exists, of all runs, also of dead ones, or of the one named *run*."""
    records = (GuestRecord.read(path) for path in sorted(folder.glob(f"{run}/*/{RECORD}")))
    return [record for record in records if record is not None and psutil.pid_exists(record.pid)]


def reap(folder: Path) -> list[Path]:
    """Remove what dead runs left in *folder*, their hypervisors first.

    Returns:
        the folders of the runs that were removed.
    """
    dead = []
    for run in sorted(folder.iterdir()):
        fd = _take(run)
        if fd is not None:
            try:
                kill_hypervisors_of(run)
                shutil.rmtree(run, ignore_errors=True)
                dead.append(run)
            finally:
                os.close(fd)
    return dead


def reap_kept(folder: Path) -> list[GuestRecord]:
    """End the guests in *folder* that were kept, and whose owner is dead.

    Returns:
        those that are gone.
    """
    kept = [guest for guest in live_guests(folder) if guest.kept and not _owner_lives(guest)]
    return [guest for guest in kept if end_kept(guest)]


def _owner_lives(guest: GuestRecord) -> bool:
    """Whether the process that had *guest* still runs, and not another one that has got its number since."""
    try:
        return psutil.Process(guest.owner).create_time() < guest.started
    except psutil.Error:
        return False


def end_kept(guest: GuestRecord) -> bool:
    """End a *guest* that was kept; whether it is gone. Its guardian removes what it stood on."""
    # Its number may be another's by now, and others may only look at its files.
    if guest.pid in find_hypervisors_of(guest.folder.parent):
        kill([guest.pid])
    end = time.monotonic() + _END_SECONDS
    while guest.folder.exists():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def living_runs(folder: Path) -> list[float]:
    """When each run in *folder* began whose process or guardian lives, as `time.time` counts."""
    began = []
    for run in folder.iterdir():
        fd = _take(run)
        if fd is not None:
            os.close(fd)
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # Nobody ever writes to it.
            began.append((run / _LOCK).stat().st_mtime)
    return began


def _take(run: Path) -> int | None:
    """The descriptor of *run*'s lock, now ours; None when the run has an owner."""
    maker = run.name.lstrip(".").partition("-")[0]
    maker_lives = maker.isdecimal() and psutil.pid_exists(int(maker))
    if maker_lives and run.name.startswith("."):
        return None
    try:
        fd = os.open(run / _LOCK, os.O_RDWR | os.O_CLOEXEC | (0 if maker_lives else os.O_CREAT), 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def find_hypervisors_of(run: Path) -> list[int]:
    """The processes of the hypervisors whose guests lie in *run*.

    They are known by their command line, which names a pidfile in the guest's folder, so that none is missed that was
    started just before its record could be written, and no process is met that has a dead one's number or only reads
    these files.
    """
    pidfile = re.compile(rf"{re.escape(f'{run}{os.sep}')}\S+{re.escape(f'{os.sep}{PIDFILE}')}(?: |$)")
    return [process.pid for process in find_processes(f"{run}{os.sep}") if pidfile.search(process.command)]


def kill_hypervisors_of(run: Path) -> None:
    """Kill the hypervisors whose guests lie in *run*, and wait until they are gone."""
    pids = find_hypervisors_of(run)
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            processes.append(psutil.Process(pid))
    kill(pids)
    psutil.wait_procs(processes, timeout=5)
