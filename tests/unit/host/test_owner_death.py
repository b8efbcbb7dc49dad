"""A run whose process dies: its guardian and the next run leave nothing of it but the console."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from waiting import becomes, has_its_command_line, is_running

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.host.runs import live_guests, reap

ABOUT = {"name": "g", "image": "tiny", "image_disk": "/images/tiny", "owner": 1, "uuid": "u", "hypervisor": "sleep"}

OWNER = dedent(
    """
    import json, os, sys, time
    from pathlib import Path
    from pytest_xhyve.host import runs
    from pytest_xhyve.host.guardian import Guardian

    folder = Path(sys.argv[1])
    with runs.new_run(folder) as (run, lock):
        guardian = Guardian(run, lock, folder.parent / "salvaged")
        with guardian.guard(run / "g", [], json.loads(sys.argv[2])) as process:
            (run / "g" / "disk").write_bytes(b"clone")
            process.start(["sleep", "600"], {}, {})
            if len(sys.argv) > 3:
                # A child that keeps every descriptor open, as multiprocessing's fork does.
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
            print(json.dumps([guardian.pid, process.pid]), flush=True)
            time.sleep(600)
    """
)


@contextlib.contextmanager
def owner(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run in a process of its own, with a guest; its guardian's and its hypervisor's pids."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        # This run may itself ignore them, as one in the background of a script does.
        ["env", "--default-signal=INT,HUP", sys.executable, "-c", OWNER, str(folder), json.dumps(ABOUT), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_death_of_the_owner_leaves_nothing(run_folder: Path, number: signal.Signals) -> None:
    with owner(run_folder) as (process, pids):
        (record,) = live_guests(run_folder)
        assert record.pid == pids[1]
        process.send_signal(number)
        assert becomes(lambda: not any(map(is_running, pids)) and not list(run_folder.iterdir()))


def test_death_of_the_owner_leaves_the_console(run_folder: Path) -> None:
    """A guest that was removed in the way of all guests leaves nothing."""
    with owner(run_folder) as (process, _):
        (run,) = run_folder.iterdir()
        (run / "g" / "console.log").write_text("the last line")
        process.kill()
        process.wait()
        saved = run_folder.parent / "salvaged" / run.name / "g"
        assert becomes(lambda: not list(run_folder.iterdir()))
    assert (saved / "console.log").read_text() == "the last line"
    assert json.loads((saved / "guest.json").read_text())["name"] == "g"
    assert saved.stat().st_mode & 0o777 == 0o700


def test_removed_guest_is_not_salvaged(run_folder: Path, tmp_path: Path) -> None:
    run_folder.mkdir()
    with (
        runs.new_run(run_folder) as (folder, lock),
        contextlib.closing(Guardian(folder, lock, tmp_path / "salvaged")) as guardian,
        guardian.guard(folder / "g", [], ABOUT) as process,
    ):
        process.start(["sleep", "600"], {}, {})
    assert not (tmp_path / "salvaged").exists()


def test_forked_child_does_not_keep_the_guests_alive(run_folder: Path) -> None:
    with owner(run_folder, "fork") as (process, pids):
        process.kill()
        process.wait()
        assert becomes(lambda: not any(map(is_running, pids)) and not list(run_folder.iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_death_of_owner_and_guardian_leaves_no_process(run_folder: Path) -> None:
    with owner(run_folder) as (process, pids):
        for pid in (process.pid, pids[0]):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        assert becomes(lambda: not any(map(is_running, pids)))
    (run,) = run_folder.iterdir()
    assert reap(run_folder) == [run]
    assert not list(run_folder.iterdir())


def test_reaping_spares_the_living(run_folder: Path) -> None:
    with owner(run_folder) as (_, pids):
        assert reap(run_folder) == []
        assert all(map(is_running, pids))


def test_reaping_kills_a_hypervisor_that_outlived_both(run_folder: Path) -> None:
    """As on a Mac, where no kernel does it: it is known by the pidfile in its command line."""
    folder = run_folder / "999999999-dead" / "g"
    folder.mkdir(parents=True)
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    stray = subprocess.Popen([*program, str(folder / "hypervisor.pid")], start_new_session=True)
    reader = subprocess.Popen([*program, str(folder / "console.log")], start_new_session=True)
    try:
        assert has_its_command_line(stray.pid)
        assert reap(run_folder) == [folder.parent]
        assert not is_running(stray.pid)
        assert reader.poll() is None
    finally:
        for process in (stray, reader):
            process.kill()
            process.wait()


def test_reaping_takes_what_was_left_half_made(run_folder: Path) -> None:
    (run_folder / ".999999999-half").mkdir(parents=True)
    (run_folder / f".{os.getpid()}-being-made").mkdir()
    assert [path.name for path in reap(run_folder)] == [".999999999-half"]
