"""One guest for all workers of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import becomes

from pytest_xhyve.fleet.slots import Slots
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import GuestRecord, live_guests

pytest_plugins = ["pytester"]

OPTIONS = ("--xhyve-image=tiny", "--xhyve-hypervisor=qemu", "-p", "no:cacheprovider", "--xhyve-strict")

CONFTEST = """
import json
import os
import pathlib
import time

HERE = pathlib.Path(__file__).parent

def note(kind, **values):
    with (HERE / "notes").open("a") as notes:
        notes.write(json.dumps({"kind": kind, "pid": os.getpid(), **values}) + "\\n")

def wait_for(name):
    end = time.monotonic() + 100
    while not (HERE / name).exists():
        assert time.monotonic() < end, name
        time.sleep(0.01)

def pytest_xhyve_run_guest(guest, request):
    note("set-up", image=guest.image.name)
    guest.run("echo once >>/root/set-up")
"""
# A test for each of three workers, which runs until all three are there.
TOGETHER = """
import os
import time

import pytest
from conftest import HERE, note, wait_for

@pytest.mark.parametrize("number", range(3))
def test_together(xhyve_run_guest, number):
    guest = xhyve_run_guest
    assert guest.run("cat /root/set-up").stdout == "once\\n"
    guest.put(str(number).encode(), f"/root/{number}")
    note("test", uuid=guest.uuid)
    (HERE / f"there-{number}").touch()
    for other in range(3):
        wait_for(f"there-{other}")
        assert guest.run(f"cat /root/{other}").stdout == str(other)
"""


def notes(folder: Path, kind: str) -> list[dict[str, str]]:
    path = folder / "notes"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [line for line in lines if line["kind"] == kind]


def run_guests() -> list[GuestRecord]:
    return [guest for guest in live_guests(Home.of_user().path / "runs") if guest.run]


def nothing_is_left() -> bool:
    """Whether no guest of a run is there, and no slot is held."""
    home = Home.of_user()
    return not run_guests() and not Slots(home.folder("slots"), 100, 0).held()


def start(pytester: pytest.Pytester, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "pytest", *OPTIONS, *options]
    return subprocess.Popen(
        argv, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_all_workers_share_one_guest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TOGETHER)
    # One guest is all that there may be.
    done = pytester.runpytest_subprocess(*OPTIONS, "--xhyve-max-guests=1", "-n", "3")
    done.assert_outcomes(passed=3)
    done.stdout.no_fnmatch_line("*left behind*")
    assert len(notes(pytester.path, "set-up")) == 1
    made = notes(pytester.path, "test")
    assert len({note["pid"] for note in made}) == 3
    assert len({note["uuid"] for note in made}) == 1
    assert nothing_is_left()


def test_without_workers(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import socket

        import pytest

        from pytest_xhyve import NotSupported

        def test_one(xhyve_run_guest):
            assert xhyve_run_guest.run("cat /root/set-up").stdout == "once\\n"
            for refused in (xhyve_run_guest.reboot, xhyve_run_guest.kill, xhyve_run_guest.remove):
                with pytest.raises(NotSupported, match="shared by all tests of the run"):
                    refused()
            with pytest.raises(NotSupported, match="shared by all tests of the run"):
                xhyve_run_guest.disks
            with pytest.raises(NotSupported, match="udp"):
                xhyve_run_guest.forward(53, protocol="udp")

        def test_two(xhyve_run_guest, xhyve_guest):
            assert xhyve_run_guest.uuid != xhyve_guest.uuid
            # Any port is reached over SSH.
            xhyve_run_guest.run("(while :; do echo hello | nc -l -p 7000; done) >/dev/null 2>&1 &")
            xhyve_run_guest.wait_for_port(7000)
            with socket.create_connection(xhyve_run_guest.forward(7000), timeout=20) as connection:
                assert connection.recv(100) == b"hello\\n"
        """
    )
    pytester.runpytest_subprocess(*OPTIONS, "-n", "0").assert_outcomes(passed=2)
    assert len(notes(pytester.path, "set-up")) == 1
    assert nothing_is_left()


def test_maker_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os
        import signal

        import pytest
        from conftest import HERE, note

        @pytest.mark.parametrize("number", range(3))
        def test_it(xhyve_run_guest, number):
            note("test", uuid=xhyve_run_guest.uuid)
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            assert xhyve_run_guest.run("cat /root/set-up").stdout == "once\\n"
        """
    )
    # For a moment, the run has no worker.
    done = pytester.runpytest_subprocess(*OPTIONS, "-n", "1")
    done.assert_outcomes(passed=2, failed=1)
    made = notes(pytester.path, "test")
    assert len(notes(pytester.path, "set-up")) == 1
    assert len({note["pid"] for note in made}) == 2
    assert len({note["uuid"] for note in made}) == 1
    assert becomes(nothing_is_left, 2)


@pytest.mark.thorough
def test_controller_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        from conftest import HERE, wait_for

        def test_one(xhyve_run_guest):
            (HERE / "one").touch()
            wait_for("never")

        def test_two(xhyve_run_guest):
            (HERE / "two").touch()
            wait_for("never")
        """
    )
    with start(pytester, "-n", "2") as run:
        assert becomes(lambda: all((pytester.path / name).exists() for name in ("one", "two")), 100)
        assert len(run_guests()) == 1
        run.send_signal(signal.SIGKILL)
        run.wait(10)
        try:
            assert becomes(lambda: not run_guests(), 2)
        finally:
            # The workers, which end late.
            os.killpg(run.pid, signal.SIGKILL)
    assert becomes(nothing_is_left, 5)


FAILS = """
def pytest_xhyve_run_guest(guest, request):
    note("set-up")
    guest.run("echo broken >&2; exit 3")
"""
DIES = """
def pytest_xhyve_run_guest(guest, request):
    note("set-up")
    os._exit(1)
"""


@pytest.mark.parametrize(
    ("hook", "messages"),
    [
        (FAILS, ["*CommandFailed: *exit* 3*", "*could not make the guest of the run, and no other one tries again*"]),
        (DIES, ["*worker gw? (process *) died while it made the guest of the run*", "*pytest_xhyve_run_guest*"]),
    ],
    ids=["fails", "dies"],
)
@pytest.mark.thorough
def test_set_up_fails(pytester: pytest.Pytester, hook: str, messages: list[str]) -> None:
    pytester.makeconftest(CONFTEST.partition("def pytest_xhyve_run_guest")[0] + hook)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(xhyve_run_guest, number): pass
        """
    )
    done = pytester.runpytest_subprocess(*OPTIONS, "-n", "2")
    outcomes = done.parseoutcomes()
    assert outcomes.get("passed", 0) == 0, outcomes
    assert outcomes.get("errors", 0) + outcomes.get("failed", 0) == 4, outcomes
    assert len(notes(pytester.path, "set-up")) == 1
    for message in messages:
        # In any order, as each worker reports its own.
        done.stdout.fnmatch_lines([message])
    assert becomes(nothing_is_left, 2)


@pytest.mark.thorough
def test_each_image_has_its_guest(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("xhyve_run_guest", ["tiny", {"image": "tiny-partitioned"}], indirect=True)
        @pytest.mark.parametrize("number", range(2))
        def test_it(xhyve_run_guest, number, request):
            assert xhyve_run_guest.run("cat /root/set-up").stdout == "once\\n"

        @pytest.mark.parametrize("xhyve_run_guest", [{"reset": True}], indirect=True)
        def test_reset(xhyve_run_guest): pass
        """
    )
    done = pytester.runpytest_subprocess(*OPTIONS, "-n", "2")
    done.assert_outcomes(passed=4, errors=1)
    done.stdout.fnmatch_lines(["*ConfigurationError: xhyve_run_guest takes no reset=True*"])
    assert sorted(note["image"] for note in notes(pytester.path, "set-up")) == ["tiny", "tiny-partitioned"]
    assert nothing_is_left()
