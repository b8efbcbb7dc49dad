"""What pytest shows of an assertion on a command's result that fails."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator
from typing import Any

from pytest_xhyve.model.completed import Completed

_REMEMBERED = 20
_LONGEST = 1 << 20
_SHORT = 60
_LINES = 60


class RecentCommands:
    """The last commands of the current test, to tell which one a compared value is of.

    pytest shows an assertion's plugin no more than the two values that were compared. They are plain numbers and texts,
    as whoever gets them may send them anywhere.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[Completed, bool]] = deque(maxlen=_REMEMBERED)

    def add(self, completed: Completed, *, checked: bool) -> None:
        """Remember a command; if *checked*, its code was seen to be 0."""
        if len(completed.stdout) + len(completed.stderr) <= _LONGEST:
            self._last.append((completed, checked))

    def clear(self) -> None:
        """Forget them all."""
        self._last.clear()

    def explain(self, op: str, left: Any, right: Any) -> list[str] | None:
        """The lines for ``left op right``, the first one in the place of the comparison; None for no command's."""
        completed = next(self._of(op, left, right), None)
        if completed is None:
            return None
        lines = [f"{_short(left)} {op} {_short(right)}"]
        if op == "==" and isinstance(left, str) and isinstance(right, str):
            lines += ["", *_difference(left, right)]
        ended = f"it ended with code {completed.returncode} after {completed.duration:.1f} s"
        return [*lines, "", *(line.removeprefix("  ") for line in completed.report().splitlines()), ended]

    def _of(self, op: str, left: Any, right: Any) -> Iterator[Completed]:
        """The commands that the comparison may be of, the last first."""
        for completed, checked in reversed(self._last):
            texts = [text for stream in (completed.stdout, completed.stderr) for text in (stream, stream.strip())]
            is_text = any(value in texts for value in (left, right) if isinstance(value, str) and value)
            # Other numbers are as often 0 or 1; those of a command are compared with 0.
            is_code = type(left) is int and type(right) is int and not checked and left == completed.returncode
            if is_text or (is_code and right == 0 and op in ("==", "!=")):
                yield completed


def _difference(left: str, right: str) -> list[str]:
    # As pytest has it: what was expected is taken from the right.
    found = difflib.unified_diff(right.splitlines(), left.splitlines(), n=2, lineterm="")
    lines = [line for line in found if not line.startswith(("---", "+++", "@@"))]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return lines[:_LINES] + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"
