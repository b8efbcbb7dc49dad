"""A guest that the reporter tracks: which tests use it, and its diagnostics for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.plugin.pytest_internals import parameters, requested_fixture_names
from pytest_xhyve.plugin.wanted import IMAGE_FIXTURE, START_FIXTURE

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# The part of a removed guest's console that is kept for reports.
_MAX_CONSOLE_BYTES = 1 << 16
_CHOOSING_FIXTURES = (IMAGE_FIXTURE, START_FIXTURE)


@dataclass
class TrackedGuest:
    """A guest that a fixture has made.

    Attributes:
        guest: the guest.
        node: the test, class, module or session of its fixture.
        fixture: the fixture's name.
        first_test: the test that it was made for; None if unknown.
        failed_test: the node id of the first test that failed with it.
        console_start: size of its console when the current test began, in bytes.
        test_began: when the current test began, in seconds since the epoch; None for the guest's first test.
        final_evidence: its diagnostics when it was removed; None until then.
        saved_for: the node ids of the tests for which its artifacts are saved.
    """

    guest: Guest
    node: Any
    fixture: str
    first_test: pytest.Item | None
    failed_test: str | None = None
    console_start: int = 0
    test_began: float | None = None
    final_evidence: Evidence | None = None
    saved_for: set[str] = field(default_factory=set)

    def used_by(self, item: pytest.Item) -> bool:
        """Whether *item* uses the guest."""
        if self.first_test is item:
            return True
        if self.node not in item.listchain() or self.fixture not in requested_fixture_names(item):
            return False
        # pytest makes a new guest for each parameter of a shared fixture.
        return self.first_test is None or self._params(self.first_test) == self._params(item)

    def evidence(self) -> Evidence:
        """Its diagnostics, with the console's output since the current test began."""
        return self.final_evidence or collect_evidence(self.guest, self.console_start)

    def freeze_evidence(self) -> None:
        """Collect the diagnostics for the time after the guest is removed."""
        self.final_evidence = collect_evidence(self.guest, self.console_start, max_bytes=_MAX_CONSOLE_BYTES)

    def properties(self) -> dict[str, str]:
        """The properties that JUnit XML and other reports show for a test."""
        guest = self.guest
        return {
            "xhyve_guests": guest.name,
            "xhyve_image": guest.image.name,
            "xhyve_hypervisor": f"{guest.hypervisor.name} {guest.hypervisor.version}",
            "xhyve_acceleration": guest.hypervisor.acceleration,
            "xhyve_start": "warm" if "restore" in guest.phases else "cold",
            "xhyve_seconds": f"{sum(guest.phases.values()):.2f}",
            "xhyve_phases": " ".join(f"{phase}={seconds:.2f}" for phase, seconds in guest.phases.items()),
        }

    def _params(self, item: pytest.Item) -> dict[str, Any]:
        params = parameters(item)
        return {name: params[name] for name in (*_CHOOSING_FIXTURES, self.fixture) if name in params}
