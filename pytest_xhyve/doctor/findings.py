"""What was found, and the checks that find it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_xhyve.model.errors import XhyveError

Level = Literal["ok", "warning", "problem"]
_LEAST_WIDTH = 40
_WORST_FIRST: tuple[Level, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        title: what it is, in a few words.
        level: ``problem`` when something does not work, ``warning`` when it is slow or may not work.
        seen: what was found.
        cure: commands to paste, a line each, without comments, which an interactive zsh takes for arguments; empty only
            when all is well.
        stops: the hypervisors that can run no guest because of it.
    """

    title: str
    level: Level
    seen: str
    cure: str = ""
    stops: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.level == "ok") == bool(self.cure):
            raise ValueError(f"{self.title}: a cure, and only where something is wrong")

    def lines(self, width: int = 0) -> Iterator[str]:
        """The finding for people: a line, broken at *width* characters unless that is 0, and the cure below."""
        label = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM"}[self.level]
        text = f"{label:8} {self.title}: {' '.join(self.seen.split())}"
        if width:
            yield from textwrap.wrap(
                text,
                max(width, _LEAST_WIDTH),
                subsequent_indent=" " * 9,
                break_long_words=False,
                break_on_hyphens=False,
            )
        else:
            yield text
        for line in self.cure.splitlines():
            # To be pasted, and so never broken.
            yield f"{'':8}   {line}"


class Check(NamedTuple):
    """A look at one thing; *look* yields what it finds, and may raise `XhyveError`, `OSError` and `ValueError`."""

    title: str
    look: Callable[[], Iterator[Finding]]


def gather(checks: Iterable[Check]) -> tuple[Finding, ...]:
    """What all *checks* find, the worst first; one that fails is a finding as well."""
    found: list[Finding] = []
    for check in checks:
        try:
            # One by one, so that what was found before it failed is kept.
            found.extend(check.look())
        except (XhyveError, OSError, ValueError) as error:
            seen = f"cannot be found out: {error}; when that is seen to, look again:"
            found.append(Finding(check.title, "warning", seen, "pytest-xhyve doctor"))
    return tuple(sorted(found, key=lambda finding: _WORST_FIRST.index(finding.level)))
