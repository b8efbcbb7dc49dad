"""Explain a failed assertion on a command's result: show the command and its output."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator
from typing import Any

from pytest_xhyve.model.completed import Completed

_MAX_COMMANDS = 20
_MAX_CHARACTERS = 1 << 20
_SHORT = 60
_LINES = 60


class RecentCommands:
    """The last commands of the current test, to find the command that a compared value belongs to.

    pytest gives a plugin only the two compared values of an assertion. They are plain numbers and strings, without a
    reference to the command.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[Completed, bool]] = deque(maxlen=_MAX_COMMANDS)

    def add(self, completed: Completed, *, checked: bool) -> None:
        """Remember a command; if *checked*, the plugin has already checked that its exit code is 0."""
        if len(completed.stdout) + len(completed.stderr) <= _MAX_CHARACTERS:
            self._last.append((completed, checked))

    def clear(self) -> None:
        """Forget all commands."""
        self._last.clear()

    def explain(self, op: str, left: Any, right: Any) -> list[str] | None:
        """The lines that explain ``left op right``; the first one replaces pytest's own comparison.

        None if neither value belongs to a command.
        """
        completed = next(self._of(op, left, right), None)
        if completed is None:
            return None
        lines = [f"{_short(left)} {op} {_short(right)}"]
        if op == "==" and isinstance(left, str) and isinstance(right, str):
            lines += ["", *_difference(left, right)]
        ended = f"it ended with exit code {completed.returncode} after {completed.duration:.1f} s"
        return [*lines, "", *(line.removeprefix("  ") for line in completed.report().splitlines()), ended]

    def _of(self, op: str, left: Any, right: Any) -> Iterator[Completed]:
        """The commands that the comparison may belong to, the last one first."""
        for completed, checked in reversed(self._last):
            texts = [text for stream in (completed.stdout, completed.stderr) for text in (stream, stream.strip())]
            is_text = any(value in texts for value in (left, right) if isinstance(value, str) and value)
            # Other numbers are often 0 or 1, too, so only a comparison with 0 counts.
            is_code = type(left) is int and type(right) is int and not checked and left == completed.returncode
            if is_text or (is_code and right == 0 and op in ("==", "!=")):
                yield completed


def _difference(left: str, right: str) -> list[str]:
    # As in pytest, the right side is the expected text.
    found = difflib.unified_diff(right.splitlines(), left.splitlines(), n=2, lineterm="")
    lines = [line for line in found if not line.startswith(("---", "+++", "@@"))]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return lines[:_LINES] + more


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"
