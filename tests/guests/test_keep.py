"""What a user sees when a test or a guest fails: guests that are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kept import kept_guests
from waiting import becomes

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]


pytestmark = pytest.mark.usefixtures("nothing_is_kept")


def test_final_outcome_counts(pytester: pytest.Pytester) -> None:
    """Whether a test has failed is what pytest says in the end, not what was raised."""
    pytester.makepyfile(
        test_it="""
        import unittest

        import pytest

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def guest(self, xhyve_guest): pass

            def test_unittest_fails(self):
                self.assertEqual(1, 2)

        @pytest.mark.xfail(strict=True)
        def test_passes_unexpectedly(xhyve_guest): pass

        @pytest.mark.xfail(False, reason="not here")
        def test_is_not_expected_to_fail(xhyve_guest):
            raise ValueError("as it shall")

        def test_says_that_it_is_expected(xhyve_guest):
            pytest.xfail("not yet")

        def test_skips(xhyve_guest):
            raise unittest.SkipTest("not here")
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=on-failure")
    result.assert_outcomes(failed=3, xfailed=1, skipped=1)
    assert result.stdout.str().count("Captured log xhyve: ") == 3
    assert {guest.kept and guest.kept["by"].rpartition(":")[2] for guest in kept_guests()} == {
        "test_unittest_fails",
        "test_passes_unexpectedly",
        "test_is_not_expected_to_fail",
    }


def test_guest_is_kept_under_a_name_that_is_used_again(pytester: pytest.Pytester) -> None:
    """Also when pytest is told to end, each is listed once."""
    pytester.makepyfile(
        test_it="""
        import pytest

        pytestmark = pytest.mark.xhyve(name="web")

        @pytest.mark.parametrize("number", range(2))
        def test_web(xhyve_guest, number):
            assert xhyve_guest.run("hostname").stdout == "web\\n"

        def test_ends():
            pytest.exit("enough")
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=always", "-n", "1")
    assert result.stdout.str().count("web (tiny), for test_it.py::test_web[") == 2
    assert [guest.name for guest in kept_guests()] == ["web", "web"]
    for guest in kept_guests():
        done = subprocess.run([*guest.ssh, "hostname"], check=True, capture_output=True, text=True)
        assert done.stdout == "web\n"


def test_kept_guests_give_way(pytester: pytest.Pytester) -> None:
    """Tests that need a slot get it, and the guest of the first failure stays."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_fails(xhyve_guest, number):
            raise ValueError("as it shall")
        """
    )
    result = pytester.runpytest_subprocess(
        "--xhyve-image=tiny", "--xhyve-keep=on-failure", "--xhyve-max-guests=2", "-n", "2"
    )
    result.assert_outcomes(failed=4)
    assert "removed the kept guest tiny-" in result.stdout.str() or len(kept_guests()) == 2
    assert 1 <= len(kept_guests()) <= 2


def test_guest_is_alive_in_the_debugger(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(xhyve_guest):\n    raise ValueError('as it shall')")
    result = pytester.run(
        *(sys.executable, "-m", "pytest", "--xhyve-image=tiny", "--pdb"),
        stdin=b"p 'alive: ' + xhyve_guest.run('uname -s').stdout\nc\n",
    )
    result.stdout.fnmatch_lines(["*xhyve: guest tiny-0 is running: ssh -F *", "*'alive: Linux\\n'*"])
    assert not kept_guests()


def test_kill_9_spares_what_was_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os, signal

        def test_fails(xhyve_guest):
            raise ValueError("as it shall")

        def test_dies(xhyve_guest):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    pytester.runpytest_subprocess("--xhyve-image=tiny", "--xhyve-keep=on-failure")
    runs = Home.of_user().folder("runs")
    assert becomes(lambda: [guest.name for guest in live_guests(runs) if guest.owner != os.getpid()] == ["tiny-0"], 5)
    (guest,) = kept_guests()
    assert subprocess.run([*guest.ssh, "true"], check=False).returncode == 0
    assert json.loads((guest.folder / "guest.json").read_text())["kept"]["by"] == "test_it.py::test_fails"
