"""Prepare a disk for guests ahead of the first test."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings


def import_disk(disk: str, settings: Settings, *, progress: Progress) -> Path:
    """Prepare the disk at the path *disk*; return the path of its manifest.

    Raises:
        XhyveError: the file is not a disk, or cannot become an image.
        SystemExit: a signal ended this process; the guests are removed.
    """
    fleet = Fleet(settings, Home.of_user(), ProgressEvents(progress))
    with TerminationSignals(), closing(fleet), progress.activity(f"preparing {disk}"):
        return fleet.catalog.find(disk).manifest
