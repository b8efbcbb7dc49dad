from __future__ import annotations

import re
import time

import pages
import pytest

from pytest_xhyve.model.clock import monotonic

PACKAGE = pages.TOP / "pytest_xhyve"


def test_clock_goes_on_if_a_test_stops_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun does it."""
    with monkeypatch.context() as frozen:
        frozen.setattr(time, "monotonic", lambda: 1000.0)
        frozen.setattr(time, "time", lambda: 1_000_000_000.0)
        begin = monotonic()
        time.sleep(0.01)
        assert monotonic() - begin >= 0.01


def test_no_wait_uses_another_clock() -> None:
    """Those of Python and of tenacity stop under freezegun: a wait would never end."""
    clocks = re.compile(r"\btime\.(monotonic|perf_counter)\b|stop_after_delay|from time import")
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if clocks.search(path.read_text())}
    # The others are processes of their own, without the test.
    assert found == {"model/clock.py", "host/guardian_process.py", "host/owned_guest.py", "lan/switch_process.py"}
