"""The summary of a run's guests, shown at its end; xdist workers send theirs to the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.saved_failure import SavedFailure
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.model.values import format_seconds, format_size
from pytest_xhyve.report.durations import tabulate

_HINT = "`pytest-xhyve ps` lists them, and `pytest-xhyve reap` removes them"


@dataclass
class RunSummary:
    """What a run reports about its guests, in the order in which it happened.

    Attributes:
        times: the durations of each removed guest.
        kept: the kept guests.
        notes: other lines about guests.
        leaks: what the guests left behind, one line each.
        saved: the bundles with guests of failed tests.
    """

    times: list[GuestTimes] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    saved: list[SavedFailure] = field(default_factory=list)

    def add_leaks(self, find: Callable[[], Iterable[str]]) -> None:
        """Add the lines of *find*; if it fails, add a note instead of an error."""
        try:
            self.leaks += find()
        except (psutil.Error, OSError) as error:
            self.notes.append(f"cannot check whether guests left something behind: {error}")

    def to_message(self) -> dict[str, Any]:
        """This object as plain data, which an xdist worker can send to its controller."""
        return {
            "times": [times.to_message() for times in self.times],
            "kept": [kept.to_message() for kept in self.kept],
            "notes": self.notes,
            "leaks": self.leaks,
            "saved": [saved.to_message() for saved in self.saved],
        }

    def add_message(self, message: Mapping[str, Any]) -> None:
        """Add the summary from which `to_message` made *message*."""
        self.times += map(GuestTimes.from_message, message["times"])
        self.kept += map(Kept.from_message, message["kept"])
        self.notes += message["notes"]
        self.leaks += message["leaks"]
        self.saved += map(SavedFailure.from_message, message["saved"])

    def summarize(self, terminal: pytest.TerminalReporter, *, durations: bool, verbose: bool, strict: bool) -> None:
        """Print the sections *guest durations*, *kept guests*, *saved guests*, *left behind by guests*, if not empty.

        Args:
            terminal: pytest's terminal reporter.
            durations: whether to print the guests' durations.
            verbose: whether these have a line for each guest.
            strict: whether leftovers make the run fail.
        """
        if durations and self.times:
            terminal.section("guest durations")
            for line in tabulate(self.times, each=verbose):
                terminal.line(line)
        # A kept guest may have been removed, as a test needed its slot.
        kept_guests = [kept for kept in self.kept if kept.is_there]
        if kept_guests or self.notes:
            terminal.section("kept guests")
            for kept in kept_guests:
                terminal.line(f"{kept.name} ({kept.image}), for {kept.by}:")
                terminal.line(f"  {kept.login}")
            for note in self.notes:
                terminal.line(note)
            if kept_guests:
                terminal.line(_HINT)
        # A later bundle may have taken its place.
        saved_failures = [saved for saved in self.saved if Path(saved.path).exists()]
        if saved_failures:
            terminal.section("saved guests")
            for saved in saved_failures:
                size, seconds = format_size(saved.size), format_seconds(saved.seconds)
                terminal.line(f"{', '.join(saved.guests)}, for {saved.test} ({size}, in {seconds}):")
                terminal.line(f"  {saved.command}")
            terminal.line("these files hold the guests' memory, with all secrets in it; only this user can read them")
        if self.leaks:
            terminal.section("left behind by guests", red=True)
            for leak in self.leaks:
                terminal.line(leak)
            terminal.line("so the run fails (--xhyve-strict)" if strict else "with --xhyve-strict, the run would fail")
