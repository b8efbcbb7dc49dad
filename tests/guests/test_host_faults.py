"""What befalls the host harms as little as it can: one guest, not the run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from homes import marks_against_templates
from warm import fleet_of, is_warm

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]


@pytest.fixture
def request_() -> ForegroundRequest:
    return ForegroundRequest(GuestSpec())


def test_folder_of_the_run_is_removed(request_: ForegroundRequest) -> None:
    """As by a job that cleans up, or by `git clean`: the next test has its guest, and nothing is left."""
    with fleet_of(Home.of_user(), []) as fleet:
        fleet.start(request_)
        first = fleet.run_folder
        assert first is not None
        shutil.rmtree(first)
        with fleet.start(request_) as guest:
            assert guest.run("echo well").stdout == "well\n"
        second = fleet.run_folder
        assert second not in (None, first)
    assert second is not None
    assert not first.exists()
    assert not second.exists()


def test_stopped_guardian_and_a_lost_folder(request_: ForegroundRequest, home: Home) -> None:
    with fleet_of(home, [], start="auto") as fleet:
        with fleet.start(request_) as guest:
            guest.run("true")
        shutil.rmtree(home.path / "slots")
        os.kill(fleet._run.get()[0].pid, signal.SIGSTOP)
        with fleet.start(request_) as guest:
            assert is_warm(guest)
            assert guest.run("echo well").stdout == "well\n"
        os.kill(fleet._run.get()[0].pid, signal.SIGSTOP)
    assert not list(Path(home.path / "runs").iterdir())


@pytest.mark.thorough
def test_few_descriptors_for_many_guests(pytester: pytest.Pytester) -> None:
    """The guests that are there go on, the template is not blamed, and the next test has its guest."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_xhyve import XhyveError

        def test_many(xhyve_guest_factory):
            guests = [xhyve_guest_factory()]
            try:
                with pytest.raises(XhyveError, match="Too many open files(?s:.*)ulimit -n"):
                    while len(guests) < 30:
                        guests.append(xhyve_guest_factory())
                assert len(guests) > 5
                assert guests[0].run("echo well").stdout == "well\\n"
            finally:
                for guest in guests:
                    guest.remove()

        def test_next(xhyve_guest):
            assert xhyve_guest.run("echo well").stdout == "well\\n"
        """
    )
    home = Home.of_user()
    marks = marks_against_templates(home)
    pytest_ = shlex.join([sys.executable, "-m", "pytest", "--xhyve-hypervisor=qemu", "--xhyve-image=tiny"])
    pytester.run("sh", "-c", f"ulimit -n 96; exec {pytest_}").assert_outcomes(passed=2)
    assert marks_against_templates(home) == marks
    assert not live_guests(home.path / "runs")


def test_hypervisor_of_a_shared_guest_is_killed(pytester: pytest.Pytester) -> None:
    """As by the kernel if memory is short: one test fails, and the next ones have a new guest."""
    pytester.makepyfile(
        """
        import os
        import signal

        import pytest
        from pytest_xhyve import XhyveError

        dead = []

        @pytest.fixture(scope="session")
        def server(xhyve_session_guest):
            xhyve_session_guest.run("touch /root/served")
            return xhyve_session_guest

        def test_is_killed(server):
            dead.append(server)
            os.kill(server._instance.process.pid, signal.SIGKILL)
            server.run("true")

        def test_next(server):
            assert server is not dead[0]
            server.run("test -e /root/served")

        def test_switches_off(xhyve_module_guest):
            xhyve_module_guest.run("touch /root/mine; sync")
            xhyve_module_guest.kill()

        def test_is_off(xhyve_module_guest):
            with pytest.raises(XhyveError, match="is off"):
                xhyve_module_guest.run("true")
            xhyve_module_guest.start()
            xhyve_module_guest.run("test -e /root/mine")
        """
    )
    options = ("--xhyve-hypervisor=qemu", "--xhyve-image=tiny", "-p", "no:randomly")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=3, failed=1)
    line = "*guest tiny-0 has died: its hypervisor ended unexpectedly; * get a new xhyve_session_guest"
    result.stdout.fnmatch_lines([line, "*HypervisorExited: * it was killed"])
