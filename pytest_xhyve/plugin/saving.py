"""Save the guests of failed tests (``--xhyve-save-failures``): when, which, and what reports show of it."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.failure import REPEATED, CommandRecord, Failure
from pytest_xhyve.model.saved_failure import SavedFailure
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.plugin.summary import RunSummary
from pytest_xhyve.report.failures import FailuresFolder

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_SECTION = "log xhyve: saved guests"


class FailureSaver:
    """Saves the guests of each failed test once, at the first sign of the failure.

    Args:
        settings: the run's settings.
        run: an id that all processes of the run share.
        summary: gets the bundles, and why one is missing.
        commands: the commands of the current test.
    """

    def __init__(self, settings: Settings, run: str, summary: RunSummary, commands: Sequence[CommandRecord]) -> None:
        assert settings.save_failures is not None
        checked = Home.of_user().folder("checked")
        self._folder = FailuresFolder(
            settings.save_failures, settings.failures_limit, checked, with_images=settings.save_failures_with_images
        )
        self._settings = settings
        self._run = run
        self._summary = summary
        self._commands = commands
        self._saved: SavedFailure | None = None
        self._is_done = False

    def begin(self) -> None:
        """A test begins, or begins again."""
        self._saved = None
        self._is_done = False

    @property
    def command(self) -> str:
        """The command line that resumes the guests of the current test; empty if none were saved."""
        return "" if self._saved is None else self._saved.command

    def save_after_error(
        self, item: pytest.Item, error: BaseException, guests: Sequence[Guest], *, when: str = "call"
    ) -> None:
        """Save *guests* of *item*: *error* leaves the block of one of them, or it did not boot; then it is removed."""
        summary = traceback.format_exception_only(error)[0].strip().partition("\n")[0]
        self._save(item, when, summary, "".join(traceback.format_exception(error)), guests)

    def save_after_report(self, item: pytest.Item, report: pytest.TestReport, guests: Sequence[Guest]) -> None:
        """Save *guests* of *item* if *report* states that it failed; if it passed, remove what was saved before."""
        if report.failed and report.when in ("setup", "call"):
            crash = getattr(report.longrepr, "reprcrash", None)
            lines = (crash.message if crash is not None else report.longreprtext).strip().splitlines()
            self._save(item, report.when, lines[0] if lines else "", report.longreprtext, guests)
        elif report.when == "call" and self._saved is not None:
            self._folder.remove(self._saved)
            self._summary.saved.remove(self._saved)
            self._saved = None
        if report.failed and self._saved is not None:
            text = f"{self._saved.path}\n{self._saved.command}\n"
            report.sections.append((f"Captured {_SECTION} {report.when}", text))
            item.add_report_section(report.when or "", _SECTION, text)

    def _save(self, item: pytest.Item, when: str, error: str, report: str, guests: Sequence[Guest]) -> None:
        if self._is_done or not guests:
            return
        self._is_done = True
        info = guests[0].hypervisor
        failure = Failure(
            test=item.nodeid,
            when=when,
            error=error,
            traceback=report,
            time=time.time(),
            run=self._run,
            commands=tuple(self._commands),
            versions={
                "pytest-xhyve": version("pytest-xhyve"),
                "pytest": pytest.__version__,
                "python": platform.python_version(),
                info.name: f"{info.version}, {info.acceleration}",
            },
            options=_options(self._settings),
        )
        try:
            self._saved = self._folder.save(failure, guests)
        except (OSError, XhyveError) as problem:
            self._summary.notes.append(f"cannot save the guests of {item.nodeid}: {problem}")
            return
        if self._saved is not None:
            self._summary.saved.append(self._saved)


def _options(settings: Settings) -> tuple[str, ...]:
    """See `Failure.options`."""
    values = {"image": settings.images, "start": (settings.start,)}
    return tuple(f"--xhyve-{name}={value}" for name in REPEATED if name in settings.given for value in values[name])
