"""What the report of a test adds for the HTML page; an xdist worker sends it to the controller with the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.model.failed_guest import FailedGuest
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.plugin.tracking import TrackedGuest

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

ATTRIBUTE = "xhyve_page"
"""The attribute of a `pytest.TestReport`; xdist sends attributes that are plain data."""


class PageExtras:
    """Adds to reports of tests which guests they used, which were removed, and what they ran.

    Args:
        commands: the commands of the current test.
    """

    def __init__(self, commands: Sequence[CommandRecord]) -> None:
        self._commands = commands
        self._removed: list[dict[str, Any]] = []

    def removed(self, times: GuestTimes) -> None:
        """A guest was removed."""
        self._removed.append(_clean(times.to_message()))

    def attach(
        self, report: pytest.TestReport, used: Iterable[TrackedGuest], failed: Sequence[FailedGuest], bundle: str
    ) -> None:
        """Add to the report of a test.

        Args:
            report: the report of one of its steps.
            used: its guests.
            failed: what is known of them, if it has failed.
            bundle: the command that resumes them; empty if none were saved.
        """
        extra: dict[str, Any] = {"guests": [_clean(_times_of(tracked.guest).to_message()) for tracked in used]}
        if self._removed:
            extra["removed"], self._removed = self._removed, []
        if report.failed:
            extra["commands"] = [_clean(asdict(command)) for command in self._commands]
            extra["failed"] = [guest.to_message() for guest in failed]
            if bundle:
                extra["bundle"] = printable(bundle)
        setattr(report, ATTRIBUTE, extra)


def _times_of(guest: Guest) -> GuestTimes:
    began, waited = guest._requested
    return GuestTimes(guest.name, guest.image.name, "", guest.phases, began, waited)


def _clean(message: dict[str, Any]) -> dict[str, Any]:
    """*message* with text that xdist can send: it cannot send bytes that are not UTF-8."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in message.items()}
