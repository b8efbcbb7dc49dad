"""Tests take turns for their guests, over workers and over several runs of pytest."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]

OPTIONS = ("--xhyve-image=tiny", "--xhyve-hypervisor=qemu")


@pytest.mark.long
def test_worker_shows_that_it_waits_and_the_report_states_how_long(pytester: pytest.Pytester) -> None:
    """A second run of pytest takes its turn, too."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_guest(xhyve_guest, number):
            if not number:
                # A wait of less than 2 s is not reported.
                xhyve_guest.run("sleep 3")
            assert not number
        """
    )
    argv = [sys.executable, "-m", "pytest", "-q", *OPTIONS, "--xhyve-max-guests=1", "-p", "no:xdist"]
    with subprocess.Popen(argv, cwd=pytester.path, stdout=subprocess.PIPE, text=True) as other:
        result = pytester.runpytest_subprocess(*OPTIONS, "--xhyve-max-guests=1", "-n", "2")
        output, _ = other.communicate(timeout=120)
    result.assert_outcomes(passed=1, failed=1)
    assert "1 failed, 1 passed" in output
    limit = r"the limit of running guests is 1 \(--xhyve-max-guests\)"
    waiting = rf"xhyve: waiting for a free slot, 2\.\d+ s so far: {limit}.*; running: .*"
    test = r"test_worker_shows.*\.py::test_guest\[[01]\] \(process \d+\)"
    assert re.search(rf"^\[gw[01]\] {waiting}{test}$", result.stderr.str(), re.MULTILINE), result.stderr.str()
    section = r"-+ Captured log xhyve: waits setup -+\nwaited [\d.]+ m?s for a free slot\n"
    assert re.search(section, result.stdout.str() + output)
    assert not live_guests(Home.of_user().path / "runs")


def test_deadlock_of_guests_made_by_hand_is_found(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pathlib
        import time

        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_two(xhyve_guest, xhyve_guest_factory, number):
            here = pathlib.Path(__file__).parent
            (here / f"{number}.there").touch()
            while len(list(here.glob("*.there"))) < 2:
                time.sleep(0.01)
            begin = time.monotonic()
            try:
                with xhyve_guest_factory():
                    pass
            except Exception:
                assert time.monotonic() - begin < 2
                raise
        """
    )
    result = pytester.runpytest_subprocess(*OPTIONS, "--xhyve-max-guests=2", "-n", "2")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*NoFreeSlot: no free slot: the limit of running guests is 2*",
            "*deadlock: every running guest belongs to a test that waits for more, and this test asked last",
        ]
    )
    for number in range(2):
        result.stdout.fnmatch_lines([f"*1 guest (*): test_deadlock*::test_two[[]{number}[]] (process *)"])
    assert not live_guests(Home.of_user().path / "runs")
