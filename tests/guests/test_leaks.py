"""What guests leave behind is named."""

from __future__ import annotations

import os
import signal

import pytest

from pytest_xhyve.host.home import Home

pytest_plugins = ["pytester"]


pytestmark = pytest.mark.usefixtures("nothing_is_kept")


def test_leaks_are_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import subprocess, sys

        def test_leaks(xhyve_guest):
            place = xhyve_guest.console.path.parent
            lock = open(next((place.parents[2] / "slots").glob("*.lock")))
            sys.leaked = lock
            program = "import time; time.sleep(600)"
            stray = subprocess.Popen(
                [sys.executable, "-c", program, str(place / "hypervisor.pid")], start_new_session=True
            )
            (place.parents[2] / "stray").write_text(str(stray.pid))
        """
    )
    options = ["--xhyve-image=tiny"]
    for strict, code in (((), 0), (("--xhyve-strict",), 1)):
        result = pytester.runpytest_subprocess(*options, *strict)
        stray = Home.of_user().path / "stray"
        os.kill(int(stray.read_text()), signal.SIGKILL)
        stray.unlink()
        result.assert_outcomes(passed=1)
        assert result.ret == code
        result.stdout.fnmatch_lines(
            ["*left behind by guests*", "process *hypervisor.pid", "lock *held by this process"]
        )


def test_clean_run_is_not_accused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(xhyve_guest, xhyve_session_guest): pass")
    pytester.makeini("[pytest]\nxhyve_strict = true\n")
    result = pytester.runpytest_subprocess("--xhyve-image=tiny", "-n", "1")
    assert result.ret == 0
    assert "left behind" not in result.stdout.str()
