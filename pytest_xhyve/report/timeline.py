"""The places of tests and guests on the report's timeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import TEARDOWN
from pytest_xhyve.report.run_data import GuestLife, RunData, TestRun

# Which kind of time each phase is.
_KINDS = {
    "image": "prepare",
    "template": "prepare",
    "clone": "prepare",
    "start": "start",
    "boot": "start",
    "restore": "start",
    "banner": "start",
    "login": "start",
}
_LEAST_SECONDS = 0.001
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400)
_TICKS = 12


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle on the timeline.

    Attributes:
        left, width: in percent of the whole.
        kind: its style: an outcome, or a kind of a guest's time.
        title: what it is, for people.
        target: the place of the page that it links to; empty if it does not link.
        words: what a search finds it by.
    """

    left: float
    width: float
    kind: str
    title: str
    target: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of the timeline: its label, and its bars."""

    label: str
    bars: tuple[Bar, ...]
    is_test: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis, in percent, and its label."""

    left: float
    label: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """All rows, and the axis above them."""

    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]


def draw(data: RunData, now: float) -> Timeline:
    """The timeline of *data*, from the first to the last moment; what is not over reaches to *now*."""
    begins = [run.began for run in data.tests] + [life.times.began for life in data.guests.values()]
    begin = min(begins, default=data.began)
    ends = [run.ended for run in data.tests] + [life.ended or now for life in data.guests.values()]
    end = max([*ends, begin + _LEAST_SECONDS])
    scale = _Scale(begin, end - begin)
    lanes: list[Lane] = []
    workers = dict.fromkeys([*(run.worker for run in data.tests), *(life.worker for life in data.guests.values())])
    numbers = {id(run): number for number, run in enumerate(data.tests)}
    for worker in sorted(workers, key=_natural):
        runs = [run for run in data.tests if run.worker == worker]
        lanes.append(Lane(worker, tuple(_test_bar(run, numbers[id(run)], scale) for run in runs), is_test=True))
        lives = sorted(
            (life for life in data.guests.values() if life.worker == worker), key=lambda each: each.times.began
        )
        for number, row in enumerate(_rows(lives, now), 1):
            bars = tuple(bar for life in row for bar in _guest_bars(life, scale, now))
            lanes.append(Lane(f"guests {number}", bars, is_test=False))
    return Timeline(tuple(lanes), tuple(scale.ticks()))


def _natural(worker: str) -> tuple[str, int]:
    digits = worker.lstrip("abcdefghijklmnopqrstuvwxyz")
    return worker.removesuffix(digits), int(digits) if digits.isdecimal() else -1


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: float
    seconds: float

    def left(self, moment: float) -> float:
        return round(min(100.0, max(0.0, 100 * (moment - self.begin) / self.seconds)), 3)

    def bar(self, begin: float, end: float, kind: str, title: str, target: str = "", words: str = "") -> Bar:
        left = self.left(begin)
        return Bar(left, round(max(0.02, self.left(end) - left), 3), kind, title, target, words)

    def ticks(self) -> Iterator[Tick]:
        step = next((step for step in _STEPS if self.seconds / step <= _TICKS), self.seconds)
        number = 0
        while number * step <= self.seconds:
            yield Tick(self.left(self.begin + number * step), _clock(number * step))
            number += 1


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _test_bar(run: TestRun, number: int, scale: _Scale) -> Bar:
    title = printable(f"{run.test}: {run.outcome}, {run.seconds:.2f} s")
    return scale.bar(run.began, run.ended, run.outcome, title, f"t{number}", printable(run.test.lower()))


def _rows(lives: Sequence[GuestLife], now: float) -> list[list[GuestLife]]:
    """*lives* in as few rows as needed, so that no two of a row overlap."""
    rows: list[list[GuestLife]] = []
    ends: list[float] = []
    for life in lives:
        free = next((number for number, end in enumerate(ends) if end <= life.times.began), None)
        if free is None:
            rows.append([])
            ends.append(0.0)
            free = len(rows) - 1
        rows[free].append(life)
        ends[free] = life.ended or now
    return rows


def _guest_bars(life: GuestLife, scale: _Scale, now: float) -> Iterator[Bar]:
    times = life.times
    words = printable(f"{times.name} {times.image} {times.requested_by}".lower())
    name = f"{times.name} ({times.image})"
    at = times.began
    spans: list[tuple[str, str, float]] = [("wait", "waited for a slot", times.waited)]
    spans += [(_KINDS[phase], phase, seconds) for phase, seconds in times.phases.items() if phase in _KINDS]
    for kind, what, seconds in _merged(spans):
        if seconds > 0:
            yield scale.bar(at, at + seconds, kind, f"{name}: {what} {seconds:.2f} s", words=words)
            at += seconds
    end = life.ended or now
    removal = times.phases.get(TEARDOWN, 0.0)
    used = max(0.0, end - removal - at)
    yield scale.bar(at, at + used, "use", f"{name}: used for {used:.2f} s", words=words)
    if removal:
        yield scale.bar(end - removal, end, "remove", f"{name}: removed in {removal:.2f} s", words=words)


def _merged(spans: Sequence[tuple[str, str, float]]) -> list[tuple[str, str, float]]:
    """*spans* with neighbours of one kind as one: a page with thousands of guests stays small."""
    merged: list[tuple[str, str, float]] = []
    for kind, what, seconds in spans:
        if merged and merged[-1][0] == kind:
            _, before, already = merged[-1]
            merged[-1] = (kind, f"{before}, {what}", already + seconds)
        else:
            merged.append((kind, what, seconds))
    return merged
