"""A listener that remembers what the fleet reports."""

from __future__ import annotations

from pytest_xhyve.guest.events import Events
from pytest_xhyve.model.times import GuestTimes


class Recorder(Events):
    """Remembers the lines about what takes long, and the times of removed guests.

    Attributes:
        lines: in the order of their events; a list that the test has may be given.
        times: of the guests that were removed, likewise.
    """

    def __init__(self, lines: list[str] | None = None) -> None:
        self.lines = [] if lines is None else lines
        self.times: list[GuestTimes] = []

    def progress(self, line: str) -> None:
        self.lines.append(line)

    def removed(self, times: GuestTimes) -> None:
        self.times.append(times)
