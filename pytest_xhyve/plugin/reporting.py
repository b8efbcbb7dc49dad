"""Reports the guests of each test: sections of a failed report, JUnit properties, artifacts, kept guests."""

from __future__ import annotations

import logging
import shlex
import time
import unittest
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.fleet.prewarmer import in_background
from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.transcript import NAME as LOGGER
from pytest_xhyve.model.completed import RUNNING
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.failure import CommandRecord
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.model.values import format_seconds
from pytest_xhyve.plugin.harmless import make_harmless
from pytest_xhyve.plugin.summary import RunSummary
from pytest_xhyve.plugin.tracebacks import shorten_traceback
from pytest_xhyve.plugin.tracking import TrackedGuest
from pytest_xhyve.report.artifacts import SCREEN, Artifacts
from pytest_xhyve.report.assertions import RecentCommands

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.plugin.other_reports import OtherReports
    from pytest_xhyve.plugin.page_extras import PageExtras
    from pytest_xhyve.plugin.saving import FailureSaver

# pytest makes the title "Captured log xhyve: NAME call" from it. The terminal and pytest-html show any section; JUnit
# XML shows only those of stdout, stderr or the log.
_SECTION = "log xhyve: {}"
REPORTER: pytest.StashKey[Reporter] = pytest.StashKey()
"""The reporter, once there is a fleet; in the stash of a `pytest.Config`."""

_MOST_COMMANDS = 200
# The terminal shows what takes longer.
_LONG_SECONDS = 2.0
_NO_FAILURES = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)


class Reporter(Events):
    """A listener for the guests' events that adds them to pytest's reports of tests.

    Args:
        settings: the run's settings.
        summary: gets what is shown at the end of the run.
        show: prints a line at once.
        run: an id that all processes of the run share.
        others: the reports of other plugins; None if the run writes none.
    """

    def __init__(
        self,
        settings: Settings,
        summary: RunSummary,
        show: Callable[[str], None],
        run: str,
        others: OtherReports | None = None,
    ) -> None:
        self._others = others
        self._transcript: deque[CommandRecord] = deque(maxlen=_MOST_COMMANDS)
        self._saver: FailureSaver | None = None
        if settings.save_failures is not None:
            from pytest_xhyve.plugin.saving import FailureSaver  # noqa: PLC0415

            self._saver = FailureSaver(settings, run, summary, self._transcript)
        self._extras: PageExtras | None = None
        if settings.report is not None:
            from pytest_xhyve.plugin.page_extras import PageExtras  # noqa: PLC0415

            self._extras = PageExtras(self._transcript)
        self._keep = settings.keep
        logger = logging.getLogger(LOGGER)
        if logger.level == logging.NOTSET:
            # Otherwise, pytest shows only warnings.
            logger.setLevel(logging.INFO)
        self._summary = summary
        self._show = show
        self._artifacts = None if settings.artifacts is None else Artifacts(settings.artifacts)
        self._tracked: list[TrackedGuest] = []
        self._commands = RecentCommands()
        self._waits: list[str] = []
        self._item: pytest.Item | None = None

    def track(self, guest: Guest, request: pytest.FixtureRequest, item: pytest.Item | None) -> None:
        """Report *guest* from now on; the fixture of *request* has made it for *item*."""
        self._item = item
        self._tracked.append(TrackedGuest(guest, request.node, str(request.fixturename), item))

    def started(self, guest: Guest) -> None:
        """Show that *guest* has started; for ``-v``."""
        how = "restored" if "restore" in guest.phases else "booted"
        ready = format_seconds(sum(guest.phases.values()))
        before = ", before the test asked for it" if guest.prewarmed else ""
        self.progress(f"{guest.name} ({guest.image.name}): {how}, ready after {ready}{before}")

    def progress(self, line: str) -> None:
        # On the prewarming thread, printing would disturb pytest's capture.
        if not in_background():
            self._show(line)

    def waited(self, seconds: float, guests: int) -> None:
        what = "a free slot" if guests == 1 else f"{guests} free slots"
        line = f"waited {format_seconds(seconds)} for {what}"
        self._waits.append(line)
        if seconds >= _LONG_SECONDS:
            self.progress(line)

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        # If a prewarmed guest fails, no test does: the test starts another one.
        if self._saver is not None and self._item is not None and not in_background() and guest._own_power.is_on:
            self._saver.save_after_error(self._item, error, [guest], when="setup")

    def command_finished(self, guest: Guest, completed: Completed, *, checked: bool) -> None:
        # Commands that build a template are not a test's.
        if self._find(guest) is not None:
            self._commands.add(completed, checked=checked)
            if self._saver is not None or self._extras is not None or self._others is not None:
                self._transcript.append(CommandRecord.of(guest.name, completed, time.time()))

    def file_fetched(self, guest: Guest, local: Path) -> None:
        if self._artifacts is not None and self._item is not None and self._find(guest) is not None:
            with self._note_if_not_saved(f"the files fetched from guest {guest.name}"):
                self._artifacts.save_fetched(self._item.nodeid, guest, local)

    def removing(self, guest: Guest) -> None:
        tracked = self._find(guest)
        if tracked is not None:
            if self._item is not None and tracked.used_by(self._item):
                self._save_artifacts(tracked, self._item)
            tracked.freeze_evidence()

    def removed(self, times: GuestTimes) -> None:
        self._summary.times.append(times)
        if self._extras is not None:
            self._extras.removed(times)

    def kept(self, kept: Kept) -> None:
        self._summary.kept.append(kept)

    def keep_failed(self, guest: Guest, error: XhyveError) -> None:
        tracked = self._find(guest)
        kept_for = f" for {tracked.failed_test}" if tracked is not None and tracked.failed_test else ""
        self._summary.notes.append(f"not kept{kept_for}: {str(error).splitlines()[0]}")

    def reason_to_keep(self, guest: Guest, error: BaseException | None) -> str | None:
        """The test that *guest* is kept for, or None; a `pytest_xhyve.guest.guest.KeepPolicy`."""
        tracked = self._find(guest)
        if tracked is not None and self._saver is not None and self._is_failure(error):
            # The block around the guest ends, and with it the guest.
            assert self._item is not None
            assert error is not None
            self._saver.save_after_error(self._item, error, self._living(self._item))
        if tracked is None or self._keep == "never":
            return None
        if tracked.failed_test is None and self._is_failure(error) and self._item is not None:
            tracked.failed_test = self._item.nodeid
        first_test = tracked.first_test.nodeid if tracked.first_test is not None else tracked.fixture
        return tracked.failed_test or (first_test if self._keep == "always" else None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._item = item
        self._commands.clear()
        self._waits.clear()
        self._transcript.clear()
        if self._saver is not None:
            self._saver.begin()
        if self._artifacts is not None:
            self._artifacts.begin(item.nodeid)
        # Removed guests are from an earlier run of this test.
        self._tracked = [tracked for tracked in self._tracked if tracked.final_evidence is None]
        for tracked in self._tracked:
            tracked.saved_for.discard(item.nodeid)
            tracked.test_began = time.time()
            # A crash state that failed its check belongs to the test before.
            tracked.guest._crash = None
            # Earlier output of the console belongs to other tests.
            with suppress(XhyveError):
                tracked.console_start = tracked.guest.console.size

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Save the artifacts before the guests are removed."""
        for tracked in self._used_by(item):
            self._save_artifacts(tracked, item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        used = list(self._used_by(item))
        if used and (call.when == "call" or (call.when == "setup" and call.excinfo is not None)):
            # pytest copies them into the report.
            item.user_properties[:] = [*_without_guest_properties(item.user_properties), *_guest_properties(used)]
        if self._waits:
            # pytest copies it into this report and those of the test's later phases.
            item.add_report_section(call.when, _SECTION.format("waits"), "\n".join(self._waits))
            self._waits.clear()
        report = yield
        # Only pytest's report shows whether a failure was expected, or was unittest's.
        if report.failed:
            error = None if call.excinfo is None else call.excinfo.value
            self._add_sections(item, report, error, used)
            if call.excinfo is not None and (isinstance(error, XhyveError) or _interrupted_a_command(error)):
                shorten_traceback(item, call.excinfo, report)
        if self._saver is not None:
            self._saver.save_after_report(item, report, self._living(item))
        self._add_to_pages(report, used, None if call.excinfo is None else call.excinfo.value)
        make_harmless(report)
        return report

    def _add_to_pages(self, report: pytest.TestReport, used: list[TrackedGuest], error: BaseException | None) -> None:
        """Add to the HTML page and to the reports of other plugins."""
        if self._extras is None and self._others is None:
            return
        failed = []
        # After the test itself, its guests may be gone, and its first failure shows more.
        if report.failed and report.when != "teardown":
            from pytest_xhyve.plugin.failed_guests import collect  # noqa: PLC0415

            failed = collect(used, _find_evidence(error))
        bundle = "" if self._saver is None else self._saver.command
        if self._extras is not None:
            self._extras.attach(report, used, failed, bundle)
        if self._others is not None and failed:
            self._others.attach(report, failed, list(self._transcript), bundle)

    def pytest_runtest_logfinish(self) -> None:
        self._tracked = [tracked for tracked in self._tracked if tracked.final_evidence is None]

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        return self._commands.explain(op, left, right)

    def pytest_enter_pdb(self, config: pytest.Config) -> None:
        """Show how to log in to the guests, which run while pdb waits."""
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None:
            return
        writer = config.get_terminal_writer()
        for tracked in self._used_by(self._item) if self._item is not None else ():
            with suppress(XhyveError, OSError):
                login = shlex.join(tracked.guest.ssh_command())
                writer.line(f"xhyve: guest {tracked.guest.name} is running: {login}")
        for kept in self._summary.kept:
            if self._item is not None and kept.by == self._item.nodeid:
                writer.line(f"xhyve: guest {kept.name} did not boot in time, but is still running: {kept.login}")

    def _find(self, guest: Guest) -> TrackedGuest | None:
        return next((tracked for tracked in self._tracked if tracked.guest is guest), None)

    def _used_by(self, item: pytest.Item) -> Iterator[TrackedGuest]:
        return (tracked for tracked in self._tracked if tracked.used_by(item))

    def _living(self, item: pytest.Item) -> list[Guest]:
        """The guests of *item* that are not removed."""
        return [tracked.guest for tracked in self._used_by(item) if tracked.final_evidence is None]

    def _is_failure(self, error: BaseException | None) -> bool:
        """Whether *error*, which ended the block around a guest, will probably make the test fail."""
        if self._item is None or not isinstance(error, Exception | pytest.fail.Exception):
            return False
        is_expected = self._item.get_closest_marker("xfail") is not None and not self._item.config.getoption("runxfail")
        return not is_expected and not isinstance(error, _NO_FAILURES)

    def _add_sections(
        self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None, used: list[TrackedGuest]
    ) -> None:
        """Add a section to *report* for each guest of *item*, which has failed."""
        known: list[tuple[Evidence, str]] = []
        for tracked in used:
            tracked.failed_test = tracked.failed_test or item.nodeid
            known.append((tracked.evidence(), ""))
        for evidence in _find_evidence(error):
            screen = "--xhyve-artifacts=DIR keeps a picture of it"
            if self._artifacts is not None:
                with self._note_if_not_saved(f"the artifacts of guest {evidence.name}"):
                    screen = str(self._artifacts.save_evidence(item.nodeid, evidence) / SCREEN)
            known.append((evidence, screen if evidence.screen else ""))
        for evidence, screen in known:
            title, text = _SECTION.format(evidence.name), evidence.section(screen)
            report.sections.append((f"Captured {title} {report.when}", text))
            # JUnit XML takes captured sections from the teardown's report.
            item.add_report_section(report.when, title, text)

    def _save_artifacts(self, tracked: TrackedGuest, item: pytest.Item) -> None:
        if self._artifacts is None or tracked.final_evidence is not None or item.nodeid in tracked.saved_for:
            return
        tracked.saved_for.add(item.nodeid)
        with self._note_if_not_saved(f"the artifacts of guest {tracked.guest.name}"):
            self._artifacts.save(item.nodeid, tracked.guest, tracked.evidence(), tracked.test_began)
            if tracked.failed_test == item.nodeid and tracked.guest.crash_state is not None:
                self._artifacts.save_crash_disk(item.nodeid, tracked.guest)

    @contextmanager
    def _note_if_not_saved(self, what: str) -> Iterator[None]:
        """If saving *what* fails in the block, add a note to the summary; the test does not fail."""
        try:
            yield
        except (OSError, XhyveError) as error:
            note = printable(f"cannot save {what}: {error}")
            if note not in self._summary.notes:
                self._summary.notes.append(note)


def _interrupted_a_command(error: BaseException | None) -> bool:
    return any(str(note).startswith(RUNNING) for note in getattr(error, "__notes__", ()))


def _guest_properties(used: list[TrackedGuest]) -> list[tuple[str, object]]:
    """The JUnit properties of a test's guests; several guests share one value, separated by commas."""
    each = [tracked.properties() for tracked in used]
    return [(name, ", ".join(properties[name] for properties in each)) for name in each[0]]


def _without_guest_properties(properties: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """*properties* without those of the guests of an earlier run of the test."""
    return [(name, value) for name, value in properties if not name.startswith("xhyve_")]


def _find_evidence(error: BaseException | None) -> list[Evidence]:
    """The diagnostics of guests in *error* and in the errors that caused it."""
    found: list[Evidence] = []
    # A chain of causes may have a loop.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        evidence = error.evidence if isinstance(error, XhyveError) else None
        if evidence is not None and evidence not in found:
            found.append(evidence)
        error = error.__cause__ or error.__context__
    return found
