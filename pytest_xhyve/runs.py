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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pytest_xhyve.guardian_process import PIDFILE, RECORD
from pytest_xhyve.privilege import kill
from pytest_xhyve.processes import find_processes

_LOCK = ".lock"  # no guest can be named so


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """A guest that is alive on this host, as its run's folder tells."""

    name: str
    image: str
    image_disk: str
    uuid: str
    hypervisor: str
    pid: int
    owner: int
    started: float
    folder: Path

    @classmethod
    def read(cls, path: Path) -> GuestRecord | None:
        """The record at *path*, or None when there is none (the guest is being made or taken away)."""
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            return cls(
                folder=path.parent,
                **{field: content[field] for field in cls.__slots__ if field != "folder"},
            )
        except (OSError, ValueError, KeyError):
            return None


@contextmanager
def new_run(folder: Path) -> Iterator[tuple[Path, int]]:
    """A run's folder in *folder*, and the descriptor of its lock; the guardian removes the folder.

    The folder gets its name when it is locked already, so that nobody takes it for a dead run's.
    """
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    being_made = folder / f".{name}"
    being_made.mkdir(mode=0o700)
    fd = os.open(being_made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        being_made.rename(folder / name)
        yield folder / name, fd
    finally:
        # The guardian has done it before, if there was one.
        for left in (being_made, folder / name):
            shutil.rmtree(left, ignore_errors=True)
        os.close(fd)


def live_guests(folder: Path) -> list[GuestRecord]:
    """The guests of all runs in *folder*, also of dead ones, whose process still exists."""
    records = (GuestRecord.read(path) for path in sorted(folder.glob(f"*/*/{RECORD}")))
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


def kill_hypervisors_of(run: Path) -> None:
    """Kill the hypervisors whose guests lie in *run*.

    They are known by their command line, which names a pidfile in the guest's folder, so that none is missed that was
    started just before its record could be written, and no process is met that has a dead one's number or only reads
    these files.
    """
    pidfile = re.compile(rf"{re.escape(f'{run}{os.sep}')}\S+{re.escape(f'{os.sep}{PIDFILE}')}(?: |$)")
    pids = [process.pid for process in find_processes(f"{run}{os.sep}") if pidfile.search(process.command)]
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            processes.append(psutil.Process(pid))
    kill(pids)
    psutil.wait_procs(processes, timeout=5)
