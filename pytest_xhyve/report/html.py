"""The report of a run as one HTML page, which needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import COMMAND, TEARDOWN, GuestTimes
from pytest_xhyve.model.values import format_seconds
from pytest_xhyve.report.colours import coloured
from pytest_xhyve.report.run_data import FAILED, OUTCOMES, RunData, TestRun
from pytest_xhyve.report.timeline import Bar, Lane, draw

_FOLDER = Path(__file__).parent / "page"
_AXIS_HEIGHT = 20
_TEST_HEIGHT, _GUEST_HEIGHT = 14, 8
_GAP = 18
_SHOWN_PHASES = 4
_LEGEND = (
    ("wait", "waits for a slot"),
    ("prepare", "image, template, clone"),
    ("start", "boot or restore, login"),
    ("use", "used by tests"),
    ("remove", "teardown"),
)


def render(data: RunData, *, about: str, finished: bool) -> str:
    """The page that shows *data*.

    Args:
        data: the run so far.
        about: the versions and the options, for people.
        finished: whether the run has ended; otherwise, the page states that it has not.
    """
    now = data.ended or time.time()
    style, script = ((_FOLDER / name).read_text() for name in ("page.css", "page.js"))
    timeline = draw(data, now)
    lanes = list(_place(timeline.lanes))
    tests = [_describe(run, number, data) for number, run in enumerate(data.tests)]
    # Each text is a guest's or a test's, or may be; so all of them are escaped, but for the page's own two.
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"Test run of {time.strftime('%Y-%m-%d %H:%M', time.localtime(data.began))}",
        about=printable(about),
        finished=finished,
        until=time.strftime("%H:%M:%S", time.localtime(now)),
        counts=_count(data.tests),
        legend=_LEGEND,
        ticks=timeline.ticks,
        lanes=lanes,
        height=lanes[-1].bottom + 6 if lanes else _AXIS_HEIGHT,
        lives=list(data.guests.values()),
        tests=tests,
        failed=[test for test in tests if test["has_details"]],
        images=list(_images([life.times for life in data.guests.values()])),
        style=Markup(style),  # noqa: S704  # a file of this package
        script=Markup(script),  # noqa: S704  # likewise
        style_digest=_digest(style),
        script_digest=_digest(script),
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@dataclass(frozen=True, slots=True)
class _Placed:
    label: str
    bars: tuple[Bar, ...]
    top: int
    bar_height: int

    @property
    def bottom(self) -> int:
        return self.top + _GAP + self.bar_height


def _place(lanes: Sequence[Lane]) -> Iterator[_Placed]:
    top = _AXIS_HEIGHT
    for lane in lanes:
        placed = _Placed(printable(lane.label), lane.bars, top, _TEST_HEIGHT if lane.is_test else _GUEST_HEIGHT)
        yield placed
        top = placed.bottom


def _count(tests: Sequence[TestRun]) -> list[tuple[str, int]]:
    numbers = [(outcome, sum(run.outcome == outcome for run in tests)) for outcome in OUTCOMES]
    return [(outcome, number) for outcome, number in numbers if number]


def _describe(run: TestRun, number: int, data: RunData) -> dict[str, Any]:
    guests = [data.guests[key].times for key in run.guests if key in data.guests]
    names = ", ".join(f"{times.name} ({times.image}, {times.start})" for times in guests)
    return {
        "number": number,
        "test": printable(run.test),
        "outcome": run.outcome,
        "seconds": format_seconds(run.seconds),
        "worker": run.worker,
        "guests": names,
        "words": printable(f"{run.test} {names} {run.outcome}".lower()),
        "has_details": bool(run.reports) or run.outcome in FAILED,
        "reports": [printable(text) for text in run.reports],
        "sections": [(printable(title), printable(text)) for title, text in run.sections],
        "commands": [_describe_command(command) for command in run.commands],
        "bundle": printable(run.bundle),
        "failed": [_describe_guest(guest) for guest in run.failed],
    }


def _describe_command(command: CommandRecord) -> dict[str, str]:
    return {
        "guest": command.guest,
        "command": printable(command.command),
        "end": "did not end" if command.returncode == -1 else f"exit code {command.returncode}",
        "seconds": format_seconds(command.duration),
        "stdout": printable(command.stdout),
        "stderr": printable(command.stderr),
    }


def _describe_guest(guest: FailedGuest) -> dict[str, Any]:
    return {
        "name": printable(guest.name),
        "console": list(coloured(guest.console)),
        "journal": list(coloured(guest.journal)),
        "screen": guest.screen,
    }


def _images(guests: Sequence[GuestTimes]) -> Iterator[dict[str, Any]]:
    def key(times: GuestTimes) -> tuple[str, str]:
        return times.image, times.start

    for (image, start), group in groupby(sorted(guests, key=key), key=key):
        members = list(group)
        starts = [sum(_start_phases(times).values()) for times in members]
        phases: dict[str, list[float]] = {}
        for times in members:
            for phase, seconds in _start_phases(times).items():
                phases.setdefault(phase, []).append(seconds)
        most = sorted(((median(seconds), phase) for phase, seconds in phases.items()), reverse=True)[:_SHOWN_PHASES]
        yield {
            "name": image,
            "start": start,
            "number": len(members),
            "median": format_seconds(median(starts)),
            "worst": format_seconds(max(starts)),
            "waited": format_seconds(sum(times.waited for times in members)),
            "phases": " · ".join(f"{phase} {format_seconds(seconds)}" for seconds, phase in most),
        }


def _start_phases(times: GuestTimes) -> dict[str, float]:
    return {phase: seconds for phase, seconds in times.phases.items() if phase not in (COMMAND, TEARDOWN)}
