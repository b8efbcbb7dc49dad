"""What is told of the guests of each test: sections of a failed report, properties, artifacts, and which are kept."""

from __future__ import annotations

import shlex
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.errors import XhyveError
from pytest_xhyve.evidence import Evidence
from pytest_xhyve.report.artifacts import Artifacts
from pytest_xhyve.report.gathered import Gathered
from pytest_xhyve.report.tracebacks import shorten
from pytest_xhyve.settings import Settings

if TYPE_CHECKING:
    from pytest_xhyve.guest import Guest

# pytest makes of it the title "Captured log xhyve: NAME call". The terminal and pytest-html show any section, JUnit XML
# only those that are captured on stdout, stderr or the log.
_SECTION = "log xhyve: {}"


@dataclass
class _Watched:
    """A guest that a fixture has made.

    Attributes:
        guest: itself.
        node: whose fixture it was.
        fixture: its name.
        made_for: the test that it was made for.
        failed: the first test that failed with it.
        start: how much its console had said when the current test began.
        since: when that was, as `time.time` counts; None while it is the first one's.
        last: what was known of it when it was taken away.
        saved_for: the tests for which its artifacts are there.
    """

    guest: Guest
    node: Any
    fixture: str
    made_for: str
    failed: str | None = None
    start: int = 0
    since: float | None = None
    last: Evidence | None = None
    saved_for: set[str] = field(default_factory=set)

    def is_of(self, item: pytest.Item) -> bool:
        """Whether *item* uses it."""
        if self.made_for == item.nodeid:
            return True
        return self.node in item.listchain() and self.fixture in getattr(item, "fixturenames", ())

    def evidence(self) -> Evidence:
        return self.last or Evidence.of(self.guest, self.start)


class Witness:
    """Sees the guests of a run, and tells of them where pytest reports a test; see `pytest_xhyve.guest.Witness`.

    Args:
        settings: the run's.
        gathered: gets what is told at the end of the run.
    """

    def __init__(self, settings: Settings, gathered: Gathered) -> None:
        self._keep = settings.keep
        self._gathered = gathered
        self._artifacts = None if settings.artifacts is None else Artifacts(Path(settings.artifacts))
        self._watched: list[_Watched] = []
        self._item: pytest.Item | None = None

    def watch(self, guest: Guest, request: pytest.FixtureRequest, item: pytest.Item | None) -> None:
        """From here on, see what becomes of *guest*, which the fixture of *request* has made, for *item*."""
        self._item = item
        made_for = item.nodeid if item is not None else ""
        self._watched.append(_Watched(guest, request.node, str(request.fixturename), made_for))
        guest.witness = self

    def fetched(self, guest: Guest, local: Path) -> None:
        if self._artifacts is not None and self._item is not None:
            with self._noting(f"what was fetched from guest {guest.name}"):
                self._artifacts.save_fetched(self._item.nodeid, guest, local)

    def leaving(self, guest: Guest) -> None:
        for watched in self._watched:
            if watched.guest is guest:
                if self._item is not None and watched.is_of(self._item):
                    self._save(watched, self._item)
                watched.last = watched.evidence()

    def reason_to_keep(self, guest: Guest, error: BaseException | None) -> str | None:
        watched = next((watched for watched in self._watched if watched.guest is guest), None)
        if watched is None or self._keep == "never":
            return None
        if watched.failed is None and self._is_failure(error) and self._item is not None:
            watched.failed = self._item.nodeid
        if self._keep == "always":
            return watched.failed or watched.made_for
        return watched.failed

    def not_kept(self, guest: Guest, error: XhyveError) -> None:
        self._gathered.notes.append(f"guest {guest.name} could not be kept: {str(error).splitlines()[0]}")

    def _is_failure(self, error: BaseException | None) -> bool:
        """Whether *error*, which ended a block that had a guest, will make the test fail."""
        if self._item is None or self._item.get_closest_marker("xfail") is not None:
            return False
        return isinstance(error, Exception | pytest.fail.Exception) and not isinstance(error, pytest.xfail.Exception)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._item = item
        # What has happened to a guest before is another test's.
        for watched in self._watched:
            with suppress(XhyveError):
                watched.start = watched.guest.console.size
            watched.since = time.time()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Save the artifacts while the guests are still there."""
        for watched in self._of(item):
            self._save(watched, item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        used = list(self._of(item))
        if used and (call.when == "call" or (call.when == "setup" and call.excinfo is not None)):
            item.user_properties += _properties(used)
        error = None if call.excinfo is None else call.excinfo.value
        if error is not None and not isinstance(error, pytest.skip.Exception):
            self._tell(item, call.when, error, used)
        report = yield
        if call.excinfo is not None and report.failed and isinstance(error, XhyveError):
            shorten(item, call.excinfo, report)
        return report

    def pytest_runtest_logfinish(self) -> None:
        self._watched = [watched for watched in self._watched if watched.last is None]

    def pytest_enter_pdb(self, config: pytest.Config) -> None:
        """Say how to log in to the guests, which are alive at the prompt."""
        writer = config.get_terminal_writer()
        for watched in self._of(self._item) if self._item is not None else ():
            with suppress(XhyveError, OSError):
                login = shlex.join(watched.guest.ssh_command())
                writer.line(f"xhyve: guest {watched.guest.name} is alive: {login}")
        for kept in self._gathered.kept:
            if self._item is not None and kept.by == self._item.nodeid:
                writer.line(f"xhyve: guest {kept.name} did not come up, and is left as it is: {kept.login}")

    def _of(self, item: pytest.Item) -> Iterator[_Watched]:
        return (watched for watched in self._watched if watched.is_of(item))

    def _tell(self, item: pytest.Item, when: str, error: BaseException, used: list[_Watched]) -> None:
        """Show what is known of the guests of *item*, which fails."""
        known = []
        for watched in used:
            if item.get_closest_marker("xfail") is None:
                watched.failed = watched.failed or item.nodeid
            known.append(watched.evidence())
        for evidence in _of_guests_that_did_not_come_up(error):
            known.append(evidence)
            if self._artifacts is not None:
                with self._noting(f"the artifacts of guest {evidence.name}"):
                    self._artifacts.save_evidence(item.nodeid, evidence)
        for evidence in known:
            item.add_report_section(when, _SECTION.format(evidence.name), evidence.section())

    def _save(self, watched: _Watched, item: pytest.Item) -> None:
        if self._artifacts is None or watched.last is not None or item.nodeid in watched.saved_for:
            return
        watched.saved_for.add(item.nodeid)
        with self._noting(f"the artifacts of guest {watched.guest.name}"):
            self._artifacts.save(item.nodeid, watched.guest, watched.evidence(), watched.since)

    def _noting(self, what: str) -> _Noting:
        return _Noting(self._gathered, what)


class _Noting:
    """Notes that something could not be written, in the place of failing the test for it."""

    def __init__(self, gathered: Gathered, what: str) -> None:
        self._gathered = gathered
        self._what = what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, OSError | XhyveError):
            return False
        note = f"{self._what} could not be saved: {error}"
        if note not in self._gathered.notes:
            self._gathered.notes.append(note)
        return True


def _properties(used: list[_Watched]) -> list[tuple[str, object]]:
    """What JUnit XML and others have beside a test's name; of several guests, one after the other."""
    guests = [watched.guest for watched in used]

    def joined(texts: Iterator[str]) -> str:
        return ", ".join(texts)

    return [
        ("xhyve_guests", joined(guest.name for guest in guests)),
        ("xhyve_image", joined(guest.image.name for guest in guests)),
        ("xhyve_hypervisor", joined(f"{guest.hypervisor.name} {guest.hypervisor.version}" for guest in guests)),
        ("xhyve_acceleration", joined(guest.hypervisor.acceleration for guest in guests)),
        ("xhyve_start", joined("warm" if "restore" in guest.phases else "cold" for guest in guests)),
        ("xhyve_seconds", joined(f"{sum(guest.phases.values()):.2f}" for guest in guests)),
        ("xhyve_phases", "; ".join(_phases(guest) for guest in guests)),
    ]


def _phases(guest: Guest) -> str:
    return ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in guest.phases.items())


def _of_guests_that_did_not_come_up(error: BaseException | None) -> list[Evidence]:
    """What *error*, or one that has led to it, knows of guests."""
    found: list[Evidence] = []
    while error is not None:
        evidence = error.evidence if isinstance(error, XhyveError) else None
        if evidence is not None and evidence not in found:
            found.append(evidence)
        error = error.__cause__ or error.__context__
    return found
