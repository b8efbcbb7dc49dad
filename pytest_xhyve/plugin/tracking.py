"""A guest that is reported: which tests use it, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.plugin.pytest_internals import parameters, requested_names
from pytest_xhyve.plugin.wanted import IMAGE_FIXTURE, START_FIXTURE

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# Of what a guest that is gone has said: as much as a report may show.
_TAIL = 1 << 16
_MADE_BY = (IMAGE_FIXTURE, START_FIXTURE)


@dataclass
class TrackedGuest:
    """A guest that a fixture has made.

    Attributes:
        guest: itself.
        node: whose fixture it was.
        fixture: its name.
        first_test: the test that it was made for; None where nobody knows.
        failed: the node id of the first test that failed with it.
        start: how much its console had said when the current test began, in bytes.
        since: when that was, as `time.time` counts; None while it is the first one's.
        last: what was known of it when it was taken away.
        saved_for: the node ids of the tests for which its artifacts are there.
    """

    guest: Guest
    node: Any
    fixture: str
    first_test: pytest.Item | None
    failed: str | None = None
    start: int = 0
    since: float | None = None
    last: Evidence | None = None
    saved_for: set[str] = field(default_factory=set)

    def used_by(self, item: pytest.Item) -> bool:
        """Whether *item* uses it."""
        if self.first_test is item:
            return True
        if self.node not in item.listchain() or self.fixture not in requested_names(item):
            return False
        # Of a shared fixture with parameters there is one guest after the other.
        return self.first_test is None or self._params(self.first_test) == self._params(item)

    def evidence(self) -> Evidence:
        """What is known of it, of its console what came in the current test."""
        return self.last or collect_evidence(self.guest, self.start)

    def leave(self) -> None:
        """Keep what will be known of it when it is gone."""
        self.last = collect_evidence(self.guest, self.start, max_bytes=_TAIL)

    def properties(self) -> dict[str, str]:
        """What JUnit XML and others have beside a test's name."""
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
        return {name: params[name] for name in (*_MADE_BY, self.fixture) if name in params}
