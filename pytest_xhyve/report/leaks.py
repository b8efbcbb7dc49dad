"""Find what a run has left of its guests: processes, folders and locks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from pytest_xhyve.host import runs
from pytest_xhyve.host.home import Home


def find_leaks(home: Home, run: Path | None) -> Iterator[str]:
    """A line for each process, folder and lock that is left after all guests were removed; kept guests do not count.

    Args:
        home: the cache folder.
        run: the run's folder; None if no test requested a guest.
    """
    if run is None:
        return
    kept = [guest for guest in runs.live_guests(run.parent, run.name) if guest.outlives_owner]
    places = {guest.folder for guest in kept}
    if kept:
        places.update(runs.kept_lans(run.parent, run.name))
    for pid in runs.find_hypervisors_of(run):
        command = _command(pid)
        if not any(f"{place}{os.sep}" in command for place in places):
            yield f"process {pid}: {command[:200]}"
    left = [path for path in _inside(run) if path not in places] if kept else [run] if run.exists() else []
    yield from (f"folder {path}" for path in left)
    yield from _held_locks(home.path / "slots", run, _keepers(kept))


def _inside(run: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [path for path in run.iterdir() if path.is_dir()]
    return []


def _keepers(kept: list[runs.GuestRecord]) -> set[int]:
    """The process ids of the guests in *kept* and of their parents, without this process."""
    found = set()
    for guest in kept:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(guest.pid)
            found |= {process.pid, *(parent.pid for parent in process.parents())}
    return found - {psutil.Process().pid}


def _held_locks(slots: Path, run: Path, allowed: set[int]) -> Iterator[str]:
    """The slots that this process or a child of it still holds; the process ids in *allowed* may hold one.

    A process whose command line names the folder of another run belongs to that run: pytest may run inside pytest.
    """
    own = psutil.Process()
    for process in (own, *(child for child in own.children(recursive=True) if child.pid not in allowed)):
        if f"{run.parent}{os.sep}" in (command := _command(process.pid)) and str(run) not in command:
            continue
        with contextlib.suppress(psutil.Error):
            for file in process.open_files():
                if Path(file.path).parent == slots.resolve():
                    holder = "this process" if process == own else f"process {process.pid} ({command[:80]})"
                    yield f"lock {file.path}, held by {holder}"


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(cannot read its command line)"
