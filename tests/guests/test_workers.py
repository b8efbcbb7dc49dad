"""Guests under pytest-xdist: every distribution of tests, several runs at once, and workers that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import becomes

from pytest_xhyve.fleet.queue import Queue
from pytest_xhyve.fleet.slots import Slots
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]

OPTIONS = ("--xhyve-image=tiny", "--xhyve-hypervisor=qemu")
LIMIT = 3

# Each test writes down which guests it had, and for how long it had them.
CONFTEST = """
import json
import os
import pathlib
import time

import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    guests = {name: str(value.uuid) for name, value in item.funcargs.items() if name.endswith("_guest")}
    begin = time.monotonic()
    result = yield
    line = {"test": item.nodeid, "pid": os.getpid(), "guests": guests, "begin": begin, "end": time.monotonic()}
    with pathlib.Path(__file__).with_name("notes").open("a") as notes:
        notes.write(json.dumps(line) + "\\n")
    return result
"""
SUITE = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_own(xhyve_guest, number):
    assert xhyve_guest.run("echo $((6 * 7))").stdout == "42\\n"

@pytest.mark.xdist_group("together")
class TestShared:
    def test_first(self, xhyve_class_guest):
        xhyve_class_guest.run("touch /root/here")

    def test_second(self, xhyve_class_guest, xhyve_module_guest):
        assert xhyve_class_guest.uuid != xhyve_module_guest.uuid
"""


@pytest.mark.parametrize(
    "mode",
    [
        "load",
        *(
            pytest.param(mode, marks=pytest.mark.thorough)
            for mode in ("loadscope", "loadfile", "loadgroup", "worksteal", "each", "no")
        ),
    ],
)
def test_every_distribution(pytester: pytest.Pytester, mode: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_a=SUITE)
    workers = () if mode == "no" else ("-n", "2")
    arguments = (*OPTIONS, f"--xhyve-max-guests={LIMIT}", *workers, "--dist", mode)
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=8 if mode == "each" else 4)
    notes = read_notes(pytester.path)
    if mode == "each":
        assert len({(note["pid"], note["test"]) for note in notes}) == 8
    elif mode in ("loadscope", "loadfile", "no"):
        # These keep the tests of a class in one process, so that they share its guest. With pytest 9.2, xdist 3.8 does
        # not do so by its groups, also without this plugin.
        shared = {note["guests"]["xhyve_class_guest"] for note in notes if "xhyve_class_guest" in note["guests"]}
        assert len(shared) == 1
    assert most_at_once(notes) <= LIMIT
    assert not live_guests(Home.of_user().path / "runs")


@pytest.mark.thorough
def test_several_runs_at_once_share_the_limit_and_the_template(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_a=SUITE)
    argv = [sys.executable, "-m", "pytest", "-q", *OPTIONS, f"--xhyve-max-guests={LIMIT}"]
    runs = [
        subprocess.Popen([*argv, *workers], cwd=pytester.path, stdout=subprocess.PIPE, text=True)
        for workers in (("-p", "no:xdist"), ("-n", "2"), ("-n", "1"))
    ]
    for run in runs:
        output, _ = run.communicate(timeout=200)
        assert "4 passed" in output, output
    assert most_at_once(read_notes(pytester.path)) <= LIMIT
    assert not live_guests(Home.of_user().path / "runs")


def test_killed_worker_frees_its_guest_within_two_seconds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import pathlib
        import signal
        import time

        HERE = pathlib.Path(__file__).parent

        def wait_for(name):
            end = time.monotonic() + 60
            while not (HERE / name).exists():
                assert time.monotonic() < end
                time.sleep(0.01)

        def test_dies(xhyve_guest):
            (HERE / "ready").touch()
            wait_for("die")
            os.kill(os.getpid(), signal.SIGKILL)

        def test_next(request):
            wait_for("ready")
            request.getfixturevalue("xhyve_guest")
        """
    )
    argv = [sys.executable, "-m", "pytest", *OPTIONS, "--xhyve-max-guests=1", "-n", "2", "--max-worker-restart=0"]
    desk = Desk(Home.of_user().folder("slots"))
    with subprocess.Popen(argv, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert becomes(lambda: desk.waiting() == ["test_next"], 60)
        assert desk.holding() == ["test_dies"]
        (pytester.path / "die").touch()
        assert becomes(lambda: desk.holding() == ["test_next"], 2)
        output, _ = run.communicate(timeout=120)
    assert "1 failed, 1 passed" in output, output
    assert not live_guests(Home.of_user().path / "runs")


class Desk:
    """Who has guests and who waits, over all processes of this user."""

    def __init__(self, folder: Path) -> None:
        self._queue = Queue(folder / "queue")
        self._slots = Slots(folder, LIMIT, 0)

    def waiting(self) -> list[str]:
        with self._queue.locked():
            return [waiting.holder.test.rpartition("::")[2] for waiting in self._queue.waiting()]

    def holding(self) -> list[str]:
        with self._queue.locked():
            return [slot.holder.test.rpartition("::")[2] for slot in self._slots.held()]


def read_notes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "notes").read_text().splitlines()]


def most_at_once(notes: list[dict[str, Any]]) -> int:
    """How many guests were there at the same time, at most; a guest is there while a test uses it."""
    lives: dict[tuple[str, ...], tuple[float, float]] = {}
    for note in notes:
        for fixture, uuid in note["guests"].items():
            # Tests one after the other may have guests of their own in the same slot.
            key = (note["pid"], uuid, note["test"] if fixture == "xhyve_guest" else fixture)
            begin, end = lives.get(key, (note["begin"], note["end"]))
            lives[key] = (min(begin, note["begin"]), max(end, note["end"]))
    return max(sum(begin <= moment < end for begin, end in lives.values()) for moment, _ in lives.values())
