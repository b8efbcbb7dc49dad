"""What pytest shows of an assertion on a command's result that fails."""

from __future__ import annotations

import difflib
from typing import Any

from pytest_xhyve.completed import Completed, ExitCode, Output

_SHORT = 60


def explain(op: str, left: Any, right: Any) -> list[str] | None:
    """The lines for ``left op right``, the first one in the place of the comparison; None where no command is in it."""
    completed = next((value.completed for value in (left, right) if isinstance(value, ExitCode | Output)), None)
    if completed is None:
        return None
    lines = [f"{_short(left)} {op} {_short(right)}"]
    if op == "==" and isinstance(left, str) and isinstance(right, str):
        lines += ["", *_difference(left, right)]
    return [*lines, "", *_told(completed)]


def _difference(left: str, right: str) -> list[str]:
    # As pytest has it: what was expected is taken from the right.
    return [
        line.rstrip("\n") for line in difflib.ndiff(right.splitlines(keepends=True), left.splitlines(keepends=True))
    ]


def _told(completed: Completed) -> list[str]:
    ended = f"it ended with code {completed.returncode} after {completed.duration:.1f} s"
    return [line.removeprefix("  ") for line in completed.report().splitlines()] + [ended]


def _short(value: Any) -> str:
    text = repr(str(value)) if isinstance(value, Output) else repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"
