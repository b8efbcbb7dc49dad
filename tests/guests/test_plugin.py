"""The plugin as users have it: real guests in runs of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from chosen import Chosen

from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.run_under("warm", "xhyve")


@pytest.mark.run_under("warm")
def test_every_scope_has_its_guest(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(
        """
        import pytest

        seen = {}

        class TestClass:
            def test_one(self, xhyve_class_guest, xhyve_module_guest, xhyve_session_guest):
                guests = (xhyve_class_guest, xhyve_module_guest, xhyve_session_guest)
                assert len({guest.uuid for guest in guests}) == 3
                seen["class"], seen["module"], seen["session"] = guests

            def test_two(self, xhyve_class_guest, xhyve_module_guest, xhyve_session_guest):
                assert xhyve_class_guest is seen["class"]
                assert xhyve_module_guest is seen["module"]

        def test_three(xhyve_session_guest, xhyve_module_guest):
            assert xhyve_session_guest is seen["session"]
            assert seen["class"].uuid != xhyve_session_guest.uuid
            with pytest.raises(Exception, match="is off"):
                seen["class"].run("true")

        def test_paramiko(xhyve_ssh):
            _, out, _ = xhyve_ssh.exec_command("uname -s")
            assert out.read() == b"Linux\\n"
        """
    )
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny")
    result.assert_outcomes(passed=4)
    assert_nothing_left()


@pytest.mark.run_under("warm")
def test_marker_parameter_factory_and_hooks(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    folder = pytester.mkdir("folder")
    conftest = pytester.makeconftest(
        """
        from dataclasses import replace

        def pytest_xhyve_machine(machine, request):
            return replace(machine, cmdline=machine.cmdline + f" changed.by={request.config.rootpath.name}")

        def pytest_xhyve_guest_ready(guest, request):
            guest.run("touch /root/made-ready")
        """
    )
    conftest.rename(folder / "conftest.py")
    tests = pytester.makepyfile(
        test_folder="""
        import pytest
        from pytest_xhyve import Guest

        @pytest.mark.xhyve(cpus=1, memory="192M", name="web")
        def test_marked(xhyve_guest: Guest, request):
            assert xhyve_guest.name == "web"
            assert xhyve_guest.run("nproc; ls /root/made-ready").stdout == "1\\n/root/made-ready\\n"
            assert 100_000 < int(xhyve_guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) < 196_608
            assert f"changed.by={request.config.rootpath.name}" in xhyve_guest.run("cat /proc/cmdline").stdout

        @pytest.mark.xhyve(image="debian12", name="marked")
        @pytest.mark.parametrize("xhyve_guest", ["tiny", {"image": "tiny", "name": "other"}], indirect=True)
        def test_parametrized(xhyve_guest: Guest):
            assert xhyve_guest.image.name == "tiny"
            assert xhyve_guest.name in ("marked", "other")

        def test_factory(xhyve_guest_factory):
            with xhyve_guest_factory(name="a", cpus=1) as a, xhyve_guest_factory(name="b", memory="192M") as b:
                assert (a.name, b.name) == ("a", "b")
                assert a.uuid != b.uuid and a.mac != b.mac
                with pytest.raises(Exception, match="already has a guest named 'a'"):
                    xhyve_guest_factory(name="a")
            with pytest.raises(Exception, match="image 'tinny' not found; did you mean tiny"):
                xhyve_guest_factory(image="tinny")
        """
    )
    tests.rename(folder / "test_folder.py")
    pytester.makepyfile(
        test_beside="""
        def test_hooks_are_for_their_folder(xhyve_guest):
            assert "changed.by" not in xhyve_guest.run("cat /proc/cmdline").stdout
            assert "made-ready" not in xhyve_guest.run("ls -A /root").stdout
        """
    )
    pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny").assert_outcomes(passed=5)
    assert_nothing_left()


@pytest.mark.run_under("warm")
def test_xdist_workers_share_nothing(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_guest(xhyve_guest, number):
            xhyve_guest.run("sleep 1")
            identity = (xhyve_guest.uuid, xhyve_guest.mac, xhyve_guest.host, xhyve_guest.port, xhyve_guest.name)
            pathlib.Path(__file__).with_name(f"{number}.identity").write_text(repr(identity))
        """
    )
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", "-n", "2")
    result.assert_outcomes(passed=4)
    assert_nothing_left()


@pytest.mark.run_under("warm")
def test_failing_set_up_takes_the_guest_away(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makeconftest(
        """
        def pytest_xhyve_guest_ready(guest, request):
            raise RuntimeError("the user's own")
        """
    )
    pytester.makepyfile("def test_guest(xhyve_guest): pass")
    pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny").assert_outcomes(errors=1)
    assert_nothing_left()


@pytest.mark.run_under("warm")
def test_collecting_starts_nothing(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile("def test_guest(xhyve_session_guest): pass")
    for option in ("--collect-only", "--setup-plan", "--fixtures-per-test"):
        assert pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", option).ret == 0
        assert_nothing_left()


@pytest.mark.run_under("warm")
def test_teardown_takes_a_tenth_of_a_second(settings: Settings) -> None:
    fleet = Fleet(settings, Home.of_user())
    try:
        took = []
        for _ in range(3):
            guest = fleet.start(ForegroundRequest(GuestSpec(image="tiny")))
            guest.run("dd if=/dev/urandom of=/root/file bs=1M count=20 2>/dev/null; sync")
            start = time.monotonic()
            guest.remove()
            took.append(time.monotonic() - start)
        assert min(took) < 0.1, took
    finally:
        fleet.close()


def test_same_guests_on_the_next_run(settings: Settings, hypervisor: Chosen) -> None:
    # Under the stand-ins each boots, and DHCP has an address for each slot.
    count = 2 if hypervisor.name == "qemu" else 1

    def identities() -> list[tuple[str, str, str]]:
        fleet = Fleet(settings, Home.of_user())
        try:
            with ExitStack() as stack:
                guests = [
                    stack.enter_context(fleet.start(ForegroundRequest(GuestSpec(image="tiny")))) for _ in range(count)
                ]
                # Forwarded ports are the kernel's choice; an address of its own is DHCP's.
                return [(guest.uuid, guest.mac, guest.host) for guest in guests]
        finally:
            fleet.close()

    assert identities() == identities()


@pytest.mark.run_under("warm")
def test_ps_lists_and_reap_spares_the_living(settings: Settings) -> None:
    fleet = Fleet(settings, Home.of_user())
    try:
        with fleet.start(ForegroundRequest(GuestSpec(image="tiny", name="listed"))) as guest:
            listed = run_cli("ps")
            assert any(line.split()[:2] == ["listed", "tiny"] and guest.uuid in line for line in listed.splitlines())
            run_cli("reap")
            assert guest.run("echo alive").stdout == "alive\n"
    finally:
        fleet.close()
    assert "listed" not in run_cli("ps")


def run_cli(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_xhyve.cli", *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


def assert_nothing_left() -> None:
    """This process may have guests of its own; nobody else has."""
    runs = Home.of_user().folder("runs")
    assert [guest for guest in live_guests(runs) if guest.owner != os.getpid()] == []
    assert [path for path in runs.iterdir() if not path.name.startswith(f"{os.getpid()}-")] == []
