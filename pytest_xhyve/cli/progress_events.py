"""Show on the terminal what happens to guests."""

from __future__ import annotations

from pytest_xhyve.cli.guest_options import with_cli_option_names
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.guest.events import Events


class ProgressEvents(Events):
    """Shows the progress of a start on the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progress(self, line: str) -> None:
        self._progress.line(with_cli_option_names(line))

    def phase(self, guest: str, name: str) -> None:
        del guest
        self._progress.step(name)
