"""What a run gathers of its guests, to be told at its end; under xdist, workers hand theirs to the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.report.durations import tabulate

_REAP = "`pytest-xhyve ps` lists them, and `pytest-xhyve reap` removes them"


@dataclass
class RunSummary:
    """What was gathered, in the order in which it happened.

    Attributes:
        times: where the time of each guest went.
        kept: the guests that were left running.
        notes: what else is to be told of them, a line each.
        leaks: what was left behind, a line each.
    """

    times: list[GuestTimes] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def look_for_leaks(self, look: Callable[[], Iterable[str]]) -> None:
        """Add what *look* finds; that it cannot be found out is no error of a test."""
        try:
            self.leaks += look()
        except (psutil.Error, OSError) as error:
            self.notes.append(f"what is left of guests cannot be found out: {error}")

    def to_message(self) -> dict[str, Any]:
        """Itself, in what a worker can send to its controller."""
        return {
            "times": [times.to_message() for times in self.times],
            "kept": [kept.to_message() for kept in self.kept],
            "notes": self.notes,
            "leaks": self.leaks,
        }

    def add_message(self, message: Mapping[str, Any]) -> None:
        """Add what `to_message` made a message of."""
        self.times += map(GuestTimes.from_message, message["times"])
        self.kept += map(Kept.from_message, message["kept"])
        self.notes += message["notes"]
        self.leaks += message["leaks"]

    def summarize(self, terminal: pytest.TerminalReporter, *, durations: bool, verbose: bool, strict: bool) -> None:
        """Tell it all in sections of the terminal's summary.

        Args:
            terminal: pytest's.
            durations: also where the guests' time went.
            verbose: with a line for each guest.
            strict: whether what was left behind makes the run fail.
        """
        if durations and self.times:
            terminal.section("guest durations")
            for line in tabulate(self.times, each=verbose):
                terminal.line(line)
        # A test may have needed the slot of one.
        there = [kept for kept in self.kept if kept.is_there]
        if there or self.notes:
            terminal.section("kept guests")
            for kept in there:
                terminal.line(f"{kept.name} ({kept.image}), for {kept.by}:")
                terminal.line(f"  {kept.login}")
            for note in self.notes:
                terminal.line(note)
            if there:
                terminal.line(_REAP)
        if self.leaks:
            terminal.section("left behind by guests", red=True)
            for leak in self.leaks:
                terminal.line(leak)
            terminal.line(
                "the run fails for it (--xhyve-strict)" if strict else "--xhyve-strict makes the run fail for it"
            )
