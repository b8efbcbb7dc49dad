"""What pytest reports of the guests of each test: sections of a failed report, properties, artifacts, kept guests."""

from __future__ import annotations

import shlex
import time
import unittest
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.fleet.prewarmer import in_background
from pytest_xhyve.guest.events import Events
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.times import GuestTimes
from pytest_xhyve.plugin.summary import RunSummary
from pytest_xhyve.plugin.tracebacks import shorten
from pytest_xhyve.plugin.tracking import TrackedGuest
from pytest_xhyve.report.artifacts import Artifacts
from pytest_xhyve.report.assertions import RecentCommands

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.completed import Completed

# pytest makes of it the title "Captured log xhyve: NAME call". The terminal and pytest-html show any section, JUnit XML
# only those that are captured on stdout, stderr or the log.
_SECTION = "log xhyve: {}"
REPORTER: pytest.StashKey[Reporter] = pytest.StashKey()
"""Where a `pytest.Config` keeps the reporter, once there is a fleet."""

_NO_FAILURES = (pytest.skip.Exception, pytest.xfail.Exception, unittest.SkipTest)


class Reporter(Events):
    """Listens to what happens to the guests of a run, and reports it where pytest reports a test.

    Args:
        settings: the run's.
        summary: gets what is reported at the end of the run.
        show: shows a line at once.
    """

    def __init__(self, settings: Settings, summary: RunSummary, show: Callable[[str], None]) -> None:
        self._keep = settings.keep
        self._summary = summary
        self._show = show
        self._artifacts = None if settings.artifacts is None else Artifacts(settings.artifacts)
        self._tracked: list[TrackedGuest] = []
        self._commands = RecentCommands()
        self._item: pytest.Item | None = None

    def track(self, guest: Guest, request: pytest.FixtureRequest, item: pytest.Item | None) -> None:
        """From here on, report what happens to *guest*, which the fixture of *request* has made for *item*."""
        self._item = item
        self._tracked.append(TrackedGuest(guest, request.node, str(request.fixturename), item))

    def progress(self, line: str) -> None:
        # A line from the background would disturb what pytest captures.
        if not in_background():
            self._show(line)

    def command_finished(self, guest: Guest, completed: Completed, *, checked: bool) -> None:
        # Not the commands by which a template is built.
        if self._find(guest) is not None:
            self._commands.add(completed, checked=checked)

    def file_fetched(self, guest: Guest, local: Path) -> None:
        if self._artifacts is not None and self._item is not None and self._find(guest) is not None:
            with self._noting(f"what was fetched from guest {guest.name}"):
                self._artifacts.save_fetched(self._item.nodeid, guest, local)

    def removing(self, guest: Guest) -> None:
        tracked = self._find(guest)
        if tracked is not None:
            if self._item is not None and tracked.used_by(self._item):
                self._save(tracked, self._item)
            tracked.leave()

    def removed(self, times: GuestTimes) -> None:
        self._summary.times.append(times)

    def kept(self, kept: Kept) -> None:
        self._summary.kept.append(kept)

    def keep_failed(self, guest: Guest, error: XhyveError) -> None:
        tracked = self._find(guest)
        by = f" for {tracked.failed}" if tracked is not None and tracked.failed else ""
        self._summary.notes.append(f"not kept{by}: {str(error).splitlines()[0]}")

    def reason_to_keep(self, guest: Guest, error: BaseException | None) -> str | None:
        """For which test *guest* is left running when the block around it ends; see `pytest_xhyve.guest.KeepPolicy`."""
        tracked = self._find(guest)
        if tracked is None or self._keep == "never":
            return None
        if tracked.failed is None and self._is_failure(error) and self._item is not None:
            tracked.failed = self._item.nodeid
        first_test = tracked.first_test.nodeid if tracked.first_test is not None else tracked.fixture
        return tracked.failed or (first_test if self._keep == "always" else None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._item = item
        self._commands.clear()
        if self._artifacts is not None:
            self._artifacts.begin(item.nodeid)
        # Those that are gone are left from an earlier try at this test.
        self._tracked = [tracked for tracked in self._tracked if tracked.last is None]
        for tracked in self._tracked:
            tracked.saved_for.discard(item.nodeid)
            tracked.since = time.time()
            # What has happened to a guest before is another test's.
            with suppress(XhyveError):
                tracked.start = tracked.guest.console.size

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Save the artifacts while the guests are still there."""
        for tracked in self._of(item):
            self._save(tracked, item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        used = list(self._of(item))
        if used and (call.when == "call" or (call.when == "setup" and call.excinfo is not None)):
            # The report takes them from here.
            item.user_properties[:] = [*_without_ours(item.user_properties), *_properties(used)]
        report = yield
        # Only now is it known: of an expected failure, and of unittest's.
        if report.failed:
            error = None if call.excinfo is None else call.excinfo.value
            self._add_sections(item, report, error, used)
            if call.excinfo is not None and isinstance(error, XhyveError):
                shorten(item, call.excinfo, report)
        return report

    def pytest_runtest_logfinish(self) -> None:
        self._tracked = [tracked for tracked in self._tracked if tracked.last is None]

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        return self._commands.explain(op, left, right)

    def pytest_enter_pdb(self, config: pytest.Config) -> None:
        """Say how to log in to the guests, which are alive at the prompt."""
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None:
            return
        writer = config.get_terminal_writer()
        for tracked in self._of(self._item) if self._item is not None else ():
            with suppress(XhyveError, OSError):
                login = shlex.join(tracked.guest.ssh_command())
                writer.line(f"xhyve: guest {tracked.guest.name} is alive: {login}")
        for kept in self._summary.kept:
            if self._item is not None and kept.by == self._item.nodeid:
                writer.line(f"xhyve: guest {kept.name} did not come up, and is left as it is: {kept.login}")

    def _find(self, guest: Guest) -> TrackedGuest | None:
        return next((tracked for tracked in self._tracked if tracked.guest is guest), None)

    def _of(self, item: pytest.Item) -> Iterator[TrackedGuest]:
        return (tracked for tracked in self._tracked if tracked.used_by(item))

    def _is_failure(self, error: BaseException | None) -> bool:
        """Whether *error*, which ended a block that had a guest, will make the test fail, as far as is known by now."""
        if self._item is None or not isinstance(error, Exception | pytest.fail.Exception):
            return False
        is_expected = self._item.get_closest_marker("xfail") is not None and not self._item.config.getoption("runxfail")
        return not is_expected and not isinstance(error, _NO_FAILURES)

    def _add_sections(
        self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None, used: list[TrackedGuest]
    ) -> None:
        """Show what is known of the guests of *item*, which has failed."""
        known = []
        for tracked in used:
            tracked.failed = tracked.failed or item.nodeid
            known.append(tracked.evidence())
        for evidence in _of_guests_that_did_not_come_up(error):
            known.append(evidence)
            if self._artifacts is not None:
                with self._noting(f"the artifacts of guest {evidence.name}"):
                    self._artifacts.save_evidence(item.nodeid, evidence)
        for evidence in known:
            title, text = _SECTION.format(evidence.name), evidence.section()
            report.sections.append((f"Captured {title} {report.when}", text))
            # For the teardown's report, from which JUnit XML takes what was captured.
            item.add_report_section(report.when, title, text)

    def _save(self, tracked: TrackedGuest, item: pytest.Item) -> None:
        if self._artifacts is None or tracked.last is not None or item.nodeid in tracked.saved_for:
            return
        tracked.saved_for.add(item.nodeid)
        with self._noting(f"the artifacts of guest {tracked.guest.name}"):
            self._artifacts.save(item.nodeid, tracked.guest, tracked.evidence(), tracked.since)

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Note that *what* could not be saved, in the place of failing the test for it."""
        try:
            yield
        except (OSError, XhyveError) as error:
            note = f"{what} could not be saved: {error}"
            if note not in self._summary.notes:
                self._summary.notes.append(note)


def _properties(used: list[TrackedGuest]) -> list[tuple[str, object]]:
    """What is known of the guests of a test; of several, one after the other."""
    each = [tracked.properties() for tracked in used]
    return [(name, ", ".join(properties[name] for properties in each)) for name in each[0]]


def _without_ours(properties: list[tuple[str, object]]) -> list[tuple[str, object]]:
    """Those of *properties* that are not left from an earlier try at the test."""
    return [(name, value) for name, value in properties if not name.startswith("xhyve_")]


def _of_guests_that_did_not_come_up(error: BaseException | None) -> list[Evidence]:
    """What *error*, or one that has led to it, knows of guests."""
    found: list[Evidence] = []
    # A chain of causes may be a ring.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        evidence = error.evidence if isinstance(error, XhyveError) else None
        if evidence is not None and evidence not in found:
            found.append(evidence)
        error = error.__cause__ or error.__context__
    return found
