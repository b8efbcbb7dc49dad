"""Collect what reports show of the guests of a failed test, while they live."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from pytest_xhyve.guest.journal import read_journal
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.plugin.tracking import TrackedGuest

_MOST_CONSOLE = 32 << 10
_MOST_JOURNAL = 32 << 10
_MOST_SCREEN = 512 << 10
_JOURNAL_SECONDS = 10.0


def collect(used: Iterable[TrackedGuest], not_booted: Iterable[Evidence]) -> list[FailedGuest]:
    """What is known of the guests of a test that has just failed.

    Args:
        used: those that it used.
        not_booted: the diagnostics of those that did not boot.
    """
    return [*map(_collect, used), *map(_describe, not_booted)]


def _describe(evidence: Evidence) -> FailedGuest:
    return FailedGuest(evidence.name, _sendable(evidence.recent), "", _screen(evidence))


def _screen(evidence: Evidence) -> str:
    return base64.b64encode(evidence.screen).decode() if len(evidence.screen) <= _MOST_SCREEN else ""


def _collect(tracked: TrackedGuest) -> FailedGuest:
    evidence = tracked.evidence()
    console, journal = map(_sendable, (_console(tracked, evidence), _journal(tracked)))
    return FailedGuest(evidence.name, console, journal, _screen(evidence))


def _sendable(text: str) -> str:
    """The end of *text*, without bytes that are not UTF-8: xdist cannot send them."""
    return text[-_MOST_CONSOLE:].encode("utf-8", "backslashreplace").decode()


def _console(tracked: TrackedGuest, evidence: Evidence) -> str:
    if tracked.final_evidence is not None:
        return evidence.recent
    try:
        console = tracked.guest.console
    except XhyveError:
        # It was never started.
        return ""
    begin = max(tracked.console_start, console.begin, console.size - _MOST_CONSOLE)
    return console.read_part(begin, _MOST_CONSOLE).decode(errors="replace")


def _journal(tracked: TrackedGuest) -> str:
    if tracked.final_evidence is not None:
        return "(the guest was removed before the test failed)\n"
    power = tracked.guest._own_power
    if power.is_on and power.machine.is_paused():
        return "(cannot read the guest's journal: the test has paused the guest)\n"
    return read_journal(tracked.guest, tracked.test_began, max_bytes=_MOST_JOURNAL, timeout=_JOURNAL_SECONDS)
