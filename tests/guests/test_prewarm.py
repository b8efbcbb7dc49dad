"""Prewarmed guests: real ones, in runs of their own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from chosen import Chosen
from homes import marks_against_templates
from waiting import becomes

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]

GONE_SECONDS = 10.0

# The bound is for a host that does much else; what it takes is printed.
READY_SECONDS = 2.0

CONFTEST = """
import json
import pathlib
import time

import pytest

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    begin = time.monotonic()
    guest = yield
    if fixturedef.argname == "xhyve_guest":
        guest.run("true")
        took = time.monotonic() - begin
        with pathlib.Path("ready").open("a") as file:
            file.write(json.dumps([request.node.name, guest.prewarmed, took]) + "\\n")
    return guest
"""

QEMU = ["--xhyve-hypervisor=qemu", "--xhyve-image=tiny"]


@dataclass(frozen=True)
class Ready:
    """How a test got its guest: whether it was prewarmed, and the seconds until the output of a first command."""

    prewarmed: bool
    seconds: float


def ready(folder: Path) -> dict[str, Ready]:
    lines = [json.loads(line) for line in (folder / "ready").read_text().splitlines()]
    return {name: Ready(prewarmed, seconds) for name, prewarmed, seconds in lines}


def assert_nothing_left() -> None:
    """This process may have guests of its own; nobody else has."""
    runs = Home.of_user().folder("runs")
    assert [guest for guest in live_guests(runs) if guest.owner != os.getpid()] == []
    assert [path for path in runs.iterdir() if not path.name.startswith(f"{os.getpid()}-")] == []


@pytest.mark.thorough_under("xhyve")
@pytest.mark.run_under("warm", "xhyve")
def test_later_tests_get_ready_guests(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import time
        import pytest
        from pytest_xhyve.plugin.fixtures import PREWARMER

        uuids = set()

        @pytest.mark.parametrize("number", range(3))
        def test_guest(xhyve_guest, number, request):
            assert xhyve_guest.uuid not in uuids or not uuids.add(xhyve_guest.uuid)
            assert abs(int(xhyve_guest.run("date +%s").stdout) - time.time()) < 3
            assert xhyve_guest.run("ls /root/file", check=False).returncode != 0
            xhyve_guest.run("touch /root/file")
            # As long as a test that gives the background the time that it needs.
            prewarmer = request.config.stash[PREWARMER]
            end = time.monotonic() + 120
            while number < 2 and not prewarmer.count_ready() and time.monotonic() < end:
                time.sleep(0.05)
        """
    )
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny", "--xhyve-prewarm=2")
    result.assert_outcomes(passed=3)
    got = ready(pytester.path)
    print(hypervisor.name, got)  # noqa: T201
    assert [guest.prewarmed for guest in got.values()] == [False, True, True]
    assert max(guest.seconds for guest in got.values() if guest.prewarmed) < READY_SECONDS
    assert_nothing_left()


@pytest.mark.thorough
def test_markers_and_parameters_are_respected(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest

        def test_first(xhyve_guest):
            pass

        @pytest.mark.xhyve(cpus=2, start="cold")
        def test_marked(xhyve_guest):
            assert xhyve_guest.run("nproc").stdout == "2\\n"
            assert "boot" in xhyve_guest.phases

        @pytest.mark.parametrize("xhyve_guest", [{"memory": "192M", "start": "cold"}], indirect=True)
        def test_parametrized(xhyve_guest):
            assert 100_000 < int(xhyve_guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) < 196_608

        @pytest.mark.xhyve(name="web")
        def test_named(xhyve_guest):
            assert xhyve_guest.run("hostname").stdout == "web\\n"
        """
    )
    pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=2").assert_outcomes(passed=4)
    got = {name.partition("[")[0]: guest.prewarmed for name, guest in ready(pytester.path).items()}
    assert got == {"test_first": False, "test_marked": True, "test_parametrized": True, "test_named": False}
    assert_nothing_left()


def test_hook_sees_the_guest_at_hand_over(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_xhyve_guest_ready(guest, request):
            guest.run(f"echo {request.node.name} >> /root/names")
        """
    )
    pytester.makepyfile(
        """
        def test_one(xhyve_guest): pass

        def test_two(xhyve_guest):
            assert xhyve_guest.prewarmed
            assert xhyve_guest.run("cat /root/names").stdout == "test_two\\n"
        """
    )
    pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=1").assert_outcomes(passed=2)
    assert_nothing_left()


def test_wrong_guesses_and_dead_guests_vanish(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        """
        import os
        import signal
        import time

        import pytest

        from pytest_xhyve.host.home import Home
        from pytest_xhyve.host.runs import live_guests
        from pytest_xhyve.plugin.fixtures import PREWARMER

        @pytest.fixture
        def never():
            pytest.skip("known only now")

        def others(guest=None):
            found = live_guests(Home.of_user().folder("runs"))
            ours = [other for other in found if other.owner == os.getpid()]
            return [other for other in ours if guest is None or other.name != guest.name]

        def becomes(condition):
            end = time.monotonic() + 60
            while not condition() and time.monotonic() < end:
                time.sleep(0.02)
            return condition()

        def test_one(xhyve_guest, request):
            assert becomes(request.config.stash[PREWARMER].count_ready)
            (other,) = others(xhyve_guest)
            (ready,) = request.config.stash[PREWARMER]._ready
            os.kill(other.pid, signal.SIGKILL)
            # The guardian notices it a moment later than others do.
            assert becomes(lambda: not ready.guest.is_healthy())

        def test_two(xhyve_guest, request):
            assert not xhyve_guest.prewarmed
            xhyve_guest.run("true")
            assert becomes(request.config.stash[PREWARMER].count_ready)

        def test_skipped(never, xhyve_guest): pass

        def test_plain():
            assert becomes(lambda: not others())
        """
    )
    result = pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=1")
    result.assert_outcomes(passed=3, skipped=1)
    assert_nothing_left()


@pytest.mark.parametrize("most", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_few_slots(pytester: pytest.Pytester, most: int) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_guest(xhyve_guest, number):
            xhyve_guest.run("sleep 0.5")
        """
    )
    result = pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=2", f"--xhyve-max-guests={most}")
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*waiting*")
    assert_nothing_left()


def test_makes_room_for_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time
        from pytest_xhyve.plugin.fixtures import PREWARMER

        def test_many(xhyve_guest, xhyve_guest_factory, request):
            prewarmer = request.config.stash[PREWARMER]
            end = time.monotonic() + 60
            while not prewarmer.count_ready() and time.monotonic() < end:
                time.sleep(0.02)
            assert prewarmer.count_ready() == 1
            with xhyve_guest_factory(name="one"), xhyve_guest_factory(name="two"):
                assert not prewarmer.count_ready()

        def test_next(xhyve_guest): pass
        """
    )
    result = pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=2", "--xhyve-max-guests=3")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*waiting*")
    assert_nothing_left()


@pytest.mark.thorough
def test_with_xdist(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_guest(xhyve_guest, number):
            xhyve_guest.run("sleep 0.5")
        """
    )
    pytester.runpytest_subprocess(*QEMU, "--xhyve-prewarm=1", "-n", "2").assert_outcomes(passed=8)
    got = [guest.prewarmed for guest in ready(pytester.path).values()]
    # The first of each worker is not.
    assert got.count(True) >= 4
    assert_nothing_left()


# Ends as soon as the next guest is being made: its folder is there, and in the case of a boot its kernel runs.
BUSY = """
import os
import pathlib
import time

from pytest_xhyve.host.vanishing import find_existing, size_of

def test_one(xhyve_guest, request):
    runs = pathlib.Path(os.environ["PYTEST_XHYVE_HOME"]) / "runs"
    end = time.monotonic() + 60
    while len([log for log in find_existing(runs, "*/*/{file}") if {condition}]) < 2 and time.monotonic() < end:
        time.sleep(0.002)
    pathlib.Path("making").touch()
    {end}

def test_two(xhyve_guest): pass
"""
STAGES = {
    "restore": ("hypervisor.log", "True", "--xhyve-start=warm"),
    "boot": ("console.log", "size_of(log) > 1000", "--xhyve-start=cold"),
}


@dataclass
class Run:
    """A pytest that makes a guest in the background, and where all of it is."""

    process: subprocess.Popen[bytes]
    folder: Path
    home: Home

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def processes(self) -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and any(str(self.home.path) in word for word in process.info["cmdline"] or [])
        ]

    def leftovers(self) -> list[str]:
        left = [str(path) for path in (self.home.path / "runs").iterdir()]
        for slot in (self.home.path / "slots").glob("*.lock"):
            with slot.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    left.append(f"{slot} is held")
        return left


@contextlib.contextmanager
def running(home: Home, folder: Path, stage: str, end: str) -> Iterator[Run]:
    file, condition, start = STAGES[stage]
    (folder / "test_it.py").write_text(BUSY.format(file=file, condition=condition, end=end))
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [
                *("env", "--default-signal=INT", sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
                *(*QEMU, "--xhyve-prewarm=1", start),
            ],
            cwd=folder,
            env=os.environ | {HOME_VARIABLE: str(home.path)},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    run = Run(process, folder, home)
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for left in run.processes():
            left.kill()


@pytest.mark.parametrize("end", ["ctrl_c", pytest.param("failure", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("stage", list(STAGES))
def test_end_while_one_is_being_made(home: Home, tmp_path: Path, stage: str, end: str) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    before = marks_against_templates(home)
    with running(home, folder, stage, "assert False" if end == "failure" else "time.sleep(600)") as run:
        assert becomes(lambda: (folder / "making").exists() or run.process.poll() is not None, 120)
        assert run.process.poll() is None or end == "failure", run.said()
        if end == "ctrl_c":
            os.killpg(run.process.pid, signal.SIGINT)
        begin = time.monotonic()
        assert becomes(lambda: run.process.poll() is not None, GONE_SECONDS), "pytest itself still runs"
        print(f"{stage}, {end}: over within {time.monotonic() - begin:.2f} s")  # noqa: T201
        assert becomes(lambda: not run.processes(), GONE_SECONDS), run.processes()
        assert run.leftovers() == []
        assert "Thread" not in run.said()
        assert ("KeyboardInterrupt" in run.said()) == (end == "ctrl_c"), run.said()
    # What was ended by force says nothing against the template.
    assert marks_against_templates(home) <= before
