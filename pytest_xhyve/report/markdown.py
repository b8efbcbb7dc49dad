"""The guests of a run as Markdown, for the summary of a job of GitHub Actions."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from pytest_xhyve.model.saved_failure import SavedFailure
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.report.durations import tabulate
from pytest_xhyve.report.text_limits import shorten

# A summary of more than 1 MiB is not shown; other steps of the job may add to it.
_MOST_BYTES = 1_000_000
_MOST_TESTS = 40
_MOST_TEXT = 16 << 10
_MOST_NAME = 300


def summarize(times: Sequence[GuestTimes], failed: Sequence[tuple[str, str]], saved: Sequence[SavedFailure]) -> str:
    """The Markdown text.

    Args:
        times: the durations of all guests.
        failed: the node id of each failed test with guests, and what its report shows of them.
        saved: the bundles of failed tests.
    """
    return "\n".join([*_lines(times, failed, {each.test: each.command for each in saved}), ""])


def _lines(times: Sequence[GuestTimes], failed: Sequence[tuple[str, str]], commands: dict[str, str]) -> Iterator[str]:
    yield "## Guests of the tests"
    yield ""
    if times:
        yield from _literal("\n".join(tabulate(times, each=False)))
    size = 0
    for number, (test, text) in enumerate(failed):
        lines = list(_failed_test(test, text, commands.get(test)))
        size += sum(len(line.encode()) + 1 for line in lines)
        if number == _MOST_TESTS or size > _MOST_BYTES:
            yield f"{len(failed) - number} more failed tests are not listed."
            return
        yield from lines


def _failed_test(test: str, text: str, command: str | None) -> Iterator[str]:
    # GitHub reads Markdown again after an empty line, and the summary of details only as HTML.
    yield f"<details><summary>{html.escape(shorten(printable(test), _MOST_NAME).replace(chr(10), ' '))}</summary>"
    yield ""
    if command is not None:
        yield from _literal(command)
    yield from _literal(text)
    yield "</details>"
    yield ""


def _literal(text: str) -> Iterator[str]:
    """*text* as a block of code, whatever it contains: the fence is longer than any in it (CommonMark, 4.5)."""
    # What is made printable becomes longer.
    text = shorten(printable(text), _MOST_TEXT)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}text", text, fence, "")
