"""What is still there of a run's guests when none should be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from pytest_xhyve.host import runs
from pytest_xhyve.host.home import Home


def find_leaks(home: Home, run: Path | None) -> Iterator[str]:
    """A line for each thing of ours that is left, once all guests were taken away; those that were kept are not told.

    Args:
        home: the plugin's folder.
        run: the run's own folder; None where no guest was ever asked for.
    """
    if run is None:
        return
    kept = [guest for guest in runs.live_guests(run.parent, run.name) if guest.kept]
    places = {guest.folder for guest in kept}
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
    """The processes of the guests in *kept*, and those that have started them, up to this one."""
    found = set()
    for guest in kept:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(guest.pid)
            found |= {process.pid, *(parent.pid for parent in process.parents())}
    return found - {psutil.Process().pid}


def _held_locks(slots: Path, run: Path, rightly: set[int]) -> Iterator[str]:
    """The slots that this process, or one that a test has started and left, holds still; *rightly* are to hold one.

    A process that names the folder of another run is that run's: pytest may run inside of pytest.
    """
    own = psutil.Process()
    for process in (own, *(child for child in own.children(recursive=True) if child.pid not in rightly)):
        if f"{run.parent}{os.sep}" in (command := _command(process.pid)) and str(run) not in command:
            continue
        with contextlib.suppress(psutil.Error):
            for file in process.open_files():
                if Path(file.path).parent == slots.resolve():
                    whose = "this process" if process == own else f"process {process.pid} ({command[:80]})"
                    yield f"lock {file.path}, held by {whose}"


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(its command line cannot be read)"
