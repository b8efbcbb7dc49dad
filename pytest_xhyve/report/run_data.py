"""What a run did, as plain data for its report: its tests, its guests, and the time that each took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.report.text_limits import shorten

Outcome = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "running"]

OUTCOMES: tuple[Outcome, ...] = ("failed", "error", "xpassed", "running", "passed", "xfailed", "skipped")
"""All outcomes, in the order in which a reader looks for them."""

FAILED: frozenset[Outcome] = frozenset({"failed", "error", "running"})

_MOST_TEXT = 64 << 10
_MOST_NAME = 500
_MOST_DETAILS = 64 << 20


@dataclass(slots=True)
class TestRun:
    """One run of one test.

    Attributes:
        test: its node id, printable and without the middle if it is long.
        worker: the xdist worker, or ``main``.
        outcome: its outcome so far.
        began: when it began, in seconds since the epoch.
        ended: when its last step ended.
        steps: for each of ``setup``, ``call`` and ``teardown``: when it began and when it ended.
        guests: the ids of the guests that it used.
        reports: the report of each step that failed.
        sections: title and text of each section of these reports.
        commands: the commands that it ran, if it failed.
        bundle: the command that resumes its guests; empty if none was saved.
        failed: its guests when it failed.
    """

    test: str
    worker: str
    outcome: Outcome
    began: float
    ended: float
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)
    guests: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    sections: list[tuple[str, str]] = field(default_factory=list)
    commands: list[CommandRecord] = field(default_factory=list)
    bundle: str = ""
    failed: list[FailedGuest] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it took, with its set-up and teardown."""
        return self.ended - self.began


@dataclass(slots=True)
class GuestLife:
    """One guest.

    Attributes:
        id: differs from that of every other guest of the run.
        worker: the xdist worker that had it, or ``main``.
        times: its phases so far.
        ended: when it was removed, in seconds since the epoch; None while it lives.
    """

    id: str
    worker: str
    times: GuestTimes
    ended: float | None = None


class RunData:
    """The data of one run. Workers send theirs with the reports of their tests."""

    def __init__(self) -> None:
        self.began = time.time()
        self.ended: float | None = None
        self.tests: list[TestRun] = []
        self.guests: dict[str, GuestLife] = {}
        self._current: dict[tuple[str, str], TestRun] = {}
        self._details = 0

    def begin_test(self, test: str, worker: str) -> None:
        """A test begins, or begins again."""
        now = time.time()
        name = shorten(printable(test), _MOST_NAME)
        run = self._current[worker, test] = TestRun(name, worker, "running", now, now)
        self.tests.append(run)

    def add_step(
        self,
        test: str,
        worker: str,
        step: str,
        outcome: Outcome,
        times: tuple[float, float],
        report: str,
        sections: Sequence[tuple[str, str]],
        extra: Mapping[str, Any],
    ) -> None:
        """Add the result of a step of a test.

        Args:
            test: the test's node id.
            worker: the xdist worker, or ``main``.
            step: ``setup``, ``call`` or ``teardown``.
            outcome: what the step means for the test.
            times: when the step began and ended, in seconds since the epoch.
            report: the report of a step that failed.
            sections: title and text of each section of that report.
            extra: what `TestExtra.to_message` made.
        """
        if step == "setup" or (worker, test) not in self._current:
            # xdist's controller learns late that a test has begun.
            known = self._current.get((worker, test))
            if known is None or known.steps:
                self.begin_test(test, worker)
        run = self._current[worker, test]
        if not run.steps:
            run.began = times[0]
        run.steps[step] = times
        run.ended = max(run.ended, times[1]) if step != "setup" else times[1]
        # The set-up and the teardown of a test that passed add nothing.
        if outcome != "running" and (run.outcome in ("running", "passed") or outcome == "error"):
            run.outcome = outcome
        if report and self._details < _MOST_DETAILS:
            run.reports.append(shorten(report, _MOST_TEXT))
            run.sections += [(shorten(title, _MOST_NAME), shorten(text, _MOST_TEXT)) for title, text in sections]
            self._details += len(report) + sum(len(text) for _, text in sections)
        self._add_extra(run, extra)

    def add_removed(self, worker: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Add guests that were removed; each message is one of `GuestTimes.to_message`."""
        for message in messages:
            times = GuestTimes.from_message(message)
            life = self._life(worker, times)
            life.times = times
            life.ended = times.began + times.waited + times.lived

    def _add_extra(self, run: TestRun, extra: Mapping[str, Any]) -> None:
        for message in extra.get("guests", ()):
            life = self._life(run.worker, GuestTimes.from_message(message))
            if life.id not in run.guests:
                run.guests.append(life.id)
        self.add_removed(run.worker, extra.get("removed", ()))
        if "commands" in extra:
            run.commands = [CommandRecord(**command) for command in extra["commands"]]
        run.bundle = shorten(extra.get("bundle", run.bundle), _MOST_TEXT)
        if extra.get("failed") and self._details < _MOST_DETAILS:
            run.failed = [_shortened(FailedGuest.from_message(message)) for message in extra["failed"]]
            self._details += sum(len(guest.console) + len(guest.journal) + len(guest.screen) for guest in run.failed)

    def _life(self, worker: str, times: GuestTimes) -> GuestLife:
        key = f"{worker} {times.name} {times.began:.3f}"
        return self.guests.setdefault(key, GuestLife(key, worker, times))


def _shortened(guest: FailedGuest) -> FailedGuest:
    return replace(guest, console=shorten(guest.console, _MOST_TEXT), journal=shorten(guest.journal, _MOST_TEXT))
