"""Tables of the durations of guests' phases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from pytest_xhyve.model.times import COMMAND, TEARDOWN, GuestTimes
from pytest_xhyve.model.values import format_seconds

WIDTH = 100
"""The maximal width of a table, without the column that names the test that requested a guest."""

_ORDER = ("image", "template", "clone", "start", "restore", "boot", "banner", "login")
_LAST = (COMMAND, TEARDOWN)
_HEADS = {"login": "handshake"}
_GAP = "  "
_NONE = "-"


def tabulate(guests: Iterable[GuestTimes], *, each: bool) -> list[str]:
    """The lines of two tables, for restored and for booted guests: the median of each phase, and below it the maximum.

    Args:
        guests: all guests of the run.
        each: whether to add a line for each guest, in the order of their removal.
    """
    lines: list[str] = []
    by_start = sorted(guests, key=lambda guest: (guest.start != "warm", guest.image))
    for start, group in groupby(by_start, key=lambda guest: guest.start):
        lines += _table(start, list(group), each=each)
    return lines


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    times: tuple[float | None, ...]
    note: str = ""

    @property
    def cells(self) -> list[str]:
        return [_NONE if seconds is None else format_seconds(seconds) for seconds in self.times]


def _table(start: str, guests: Sequence[GuestTimes], *, each: bool) -> list[str]:
    phases = list(_phases(guests))
    rows = []
    for image, group in groupby(guests, key=lambda guest: guest.image):
        members = list(group)
        columns = [[guest.phases[phase] for guest in members if phase in guest.phases] for phase in phases]
        columns.append([guest.total for guest in members])
        rows.append(_Row(f"{len(members)} x {image}", tuple(median(column) if column else None for column in columns)))
        if len(members) > 1:
            rows.append(_Row("  worst", tuple(max(column, default=None) for column in columns)))
        if each:
            rows += [
                _Row(
                    f"  {guest.name}", (*(guest.phases.get(phase) for phase in phases), guest.total), guest.requested_by
                )
                for guest in members
            ]
    heads = [*(_HEADS.get(phase, phase) for phase in phases), "total"]
    cells = [row.cells for row in rows]
    widths = [max(len(text) for text in column) for column in zip(heads, *cells, strict=True)]
    room = WIDTH - sum(len(_GAP) + width for width in widths)
    label_width = min(max(len(start), *(len(row.label) for row in rows)), max(room, len("  worst")))

    def line(label: str, texts: Sequence[str], note: str = "") -> str:
        aligned = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
        return _GAP.join([_cut(label, label_width).ljust(label_width), *aligned, *([note] if note else [])])

    return [line(start, heads), *(line(row.label, row.cells, row.note) for row in rows)]


def _phases(guests: Sequence[GuestTimes]) -> Iterator[str]:
    """All phases of *guests*, in the order of a guest's life; unknown phases come before `_LAST`."""
    found = dict.fromkeys(phase for guest in guests for phase in guest.phases)
    yield from (phase for phase in _ORDER if phase in found)
    yield from (phase for phase in found if phase not in _ORDER and phase not in _LAST)
    yield from (phase for phase in _LAST if phase in found)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
