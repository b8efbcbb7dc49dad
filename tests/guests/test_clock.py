"""A guest's time: a clock that is wrong, right again, or drifts, and a share of a CPU."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from pytest_xhyve import ConfigurationError, Guest, XhyveError

pytestmark = pytest.mark.run_under("warm")


def ahead(guest: Guest) -> float:
    """The seconds that the guest's clock is ahead of the host's, within a second."""
    return float(guest.run("date +%s").stdout) + 0.5 - time.time()


@pytest.mark.xhyve(image="tiny")
def test_clock(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.set_clock(offset=-86400)
    assert ahead(guest) == pytest.approx(-86400, abs=2)
    guest.set_clock(at=datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC))
    assert guest.run("date -u +%Y-%m-%dT%H:%M").stdout == "2038-01-19T03:14\n"
    guest.set_clock(at=1e9)
    assert guest.run("date -u +%Y-%m-%d").stdout == "2001-09-09\n"
    guest.set_clock(offset=0, drift=0.1)
    begin = time.monotonic()
    uptime = float(guest.run("cat /proc/uptime").stdout.split()[0])
    guest.pause()
    time.sleep(1)
    guest.resume(clock="now")
    assert ahead(guest) == pytest.approx(0, abs=1.2)
    # By default, the clock stays behind by the time of the pause.
    guest.pause()
    time.sleep(2)
    guest.resume()
    assert ahead(guest) < -0.7
    # The clock that counts the time since the boot runs a tenth faster, but stood still in the pause.
    guest.set_clock(drift=0)
    passed = float(guest.run("cat /proc/uptime").stdout.split()[0]) - uptime
    assert passed < (time.monotonic() - begin) * 1.1
    wrong: list[dict[str, Any]] = [
        {},
        {"offset": 1, "at": 1},
        {"offset": float("nan")},
        {"offset": "1"},
        {"offset": True},
        {"at": -1},
        {"offset": -1e12},
        {"drift": 0.2},
        {"drift": "fast"},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError):
            guest.set_clock(**arguments)
    with pytest.raises(ConfigurationError, match="neither"):
        guest.resume(clock="then")  # type: ignore[arg-type]


@pytest.mark.xhyve(image="tiny")
def test_cpu_is_throttled(xhyve_guest: Guest) -> None:
    guest = xhyve_guest

    def cpu_seconds() -> float:
        pid = guest._instance.process.pid
        return sum(psutil.Process(pid).cpu_times()[:2])

    def share(seconds: float = 0.8) -> float:
        """The share of a CPU that the guest gets, which wants a whole one."""
        begin, used = time.monotonic(), cpu_seconds()
        # What is measured needs some time.
        time.sleep(seconds)
        return (cpu_seconds() - used) / (time.monotonic() - begin)

    guest.run("(while true; do :; done) > /dev/null 2>&1 &")
    guest.throttle(cpu=0.1)
    # A busy host gives neither the guest nor who stops it its turn in time.
    assert any(share() < 0.25 for _ in range(5))
    guest.throttle(cpu=None)
    assert any(share() > 0.3 for _ in range(5)), "the host may be loaded"
    for wrong in (0, -1, 2, True, "half", float("nan")):
        with pytest.raises(ConfigurationError):
            guest.throttle(cpu=wrong)  # type: ignore[arg-type]
    guest.throttle(cpu=0.2)
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        guest.throttle(cpu=0.5)


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny")
def test_clock_drifts(xhyve_guest: Guest) -> None:
    xhyve_guest.set_clock(offset=0, drift=-0.1)
    # What is measured is the drift.
    time.sleep(20)
    assert -3.5 < ahead(xhyve_guest) < -0.5
