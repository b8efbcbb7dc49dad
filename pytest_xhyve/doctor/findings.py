"""Findings, and the checks that produce them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_xhyve.model.errors import XhyveError

Level = Literal["ok", "warning", "problem"]
_MIN_WIDTH = 40
_WORST_FIRST: tuple[Level, ...] = ("problem", "warning", "ok")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        title: the name of what was checked.
        level: ``ok``; ``warning`` if something is slow or may not work; ``problem`` if it does not work.
        detail: what the check found.
        fix: commands to paste, one on each line, without comments, because an interactive zsh takes a comment for
            arguments. It is empty only if the level is ``ok``.
        blocks: the hypervisors that cannot run guests because of this.
    """

    title: str
    level: Level
    detail: str
    fix: str = ""
    blocks: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if (self.level == "ok") == bool(self.fix):
            raise ValueError(f"{self.title}: a fix is required, except for the level ok, which has none")

    def lines(self, width: int = 0) -> Iterator[str]:
        """The finding for people: the detail, wrapped at *width* characters unless that is 0, and the fix below it."""
        label = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM"}[self.level]
        text = f"{label:8} {self.title}: {' '.join(self.detail.split())}"
        if width:
            yield from textwrap.wrap(
                text,
                max(width, _MIN_WIDTH),
                subsequent_indent=" " * 9,
                break_long_words=False,
                break_on_hyphens=False,
            )
        else:
            yield text
        for line in self.fix.splitlines():
            # Users paste these lines, so they are not wrapped.
            yield f"{'':8}   {line}"


class Check(NamedTuple):
    """A check; *look* yields its findings, and may raise `XhyveError`, `OSError` and `ValueError`."""

    title: str
    look: Callable[[], Iterator[Finding]]


def gather(checks: Iterable[Check]) -> tuple[Finding, ...]:
    """The findings of all *checks*, the worst first; an error in a check becomes a finding, too."""
    found: list[Finding] = []
    for check in checks:
        try:
            # extend keeps the findings that the check yielded before it failed.
            found.extend(check.look())
        except (XhyveError, OSError, ValueError) as error:
            detail = f"the check failed: {error}; fix that, and check again:"
            found.append(Finding(check.title, "warning", detail, "pytest-xhyve doctor"))
    return tuple(sorted(found, key=lambda finding: _WORST_FIRST.index(finding.level)))
