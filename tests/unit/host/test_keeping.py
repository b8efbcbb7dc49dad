"""Guests that outlive their run, with real processes in the place of hypervisors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from mounting import mounted
from waiting import becomes, is_running

from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.processes import find_start
from pytest_xhyve.host.runs import live_guests, reap, reap_kept

ABOUT = {"name": "g", "image": "tiny", "image_disk": "/images/tiny", "uuid": "u", "hypervisor": "sleep"}

# The hypervisor names a pidfile in its folder, as all do.
OWNER = dedent(
    """
    import contextlib, json, os, sys, time
    from pathlib import Path
    from pytest_xhyve.host import runs
    from pytest_xhyve.model.errors import XhyveError
    from pytest_xhyve.host.guardian import Guardian

    folder = Path(sys.argv[1])
    about = json.loads(sys.argv[2]) | {"owner": os.getpid()}
    with runs.new_run(folder) as (run, lock):
        guardian = Guardian(run, lock)
        for name in ("kept", "other"):
            with guardian.guard(run / name, [], about | {"name": name}) as process:
                program = "import time; time.sleep(600)"
                process.start([sys.executable, "-c", program, str(run / name / "hypervisor.pid")], {}, {})
                if name == "kept":
                    if "full" in sys.argv:
                        with contextlib.suppress(OSError):
                            (run / name / "full").write_bytes(bytes(1 << 20))
                    kept = {"by": "test_it", "since": 1.0, "run": "1"}
                    with contextlib.suppress(XhyveError) if "full" in sys.argv else contextlib.nullcontext():
                        process.keep({"kept": kept, "ssh": ["ssh", name]}, held="held" in sys.argv)
                        process.kill("it")
                    print(json.dumps([guardian.pid, process.pid]), flush=True)
                    if "held" in sys.argv:
                        time.sleep(600)
                    if "killed" in sys.argv:
                        # The kernel closes the sockets of a killed process one after the other.
                        guardian._channel.socket.close()
                        time.sleep(0.2)
                        os._exit(0)
        guardian.close()
    """
)


KEPT = {"by": "test_it", "since": 1.0, "run": "1"}


def start(process: GuardedProcess) -> None:
    """Start what stands for a hypervisor."""
    program = [sys.executable, "-c", "import time; time.sleep(600)", str(process.folder / "hypervisor.pid")]
    process.start(program, {}, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@contextmanager
def kept_guest(folder: Path, *words: str) -> Iterator[list[int]]:
    """A run that is over and has kept a guest: its guardian's and its hypervisor's process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OWNER, str(folder), json.dumps(ABOUT), *words],
        check=True,
        # Does not end before nobody holds them open any more, as `pytest | tee`.
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stderr == ""
    pids = json.loads(done.stdout)
    try:
        yield pids
    finally:
        for pid in pids:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


def test_kept_guest_outlives_its_run(folder: Path) -> None:
    with kept_guest(folder) as pids:
        assert all(map(is_running, pids))
        (guest,) = live_guests(folder)
        assert (guest.name, guest.pid, guest.ssh) == ("kept", pids[1], ("ssh", "kept"))
        assert guest.kept == KEPT
        # A run that begins takes away what dead ones left, and not this.
        assert reap(folder) == []
        assert [path.name for path in guest.folder.parent.iterdir() if path.is_dir()] == ["kept"]


def test_reaping_ends_it_and_all_that_it_stood_on(folder: Path) -> None:
    with kept_guest(folder) as pids:
        assert [guest.name for guest in reap_kept(folder)] == ["kept"]
        assert becomes(lambda: not any(map(is_running, pids)) and not list(folder.iterdir()), 10)
        assert reap_kept(folder) == []


def test_process_that_got_the_id_of_a_hypervisor_is_not_killed(folder: Path) -> None:
    with kept_guest(folder) as pids:
        (guest,) = live_guests(folder)
        # It reads the guest's files, as an editor does.
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(guest.folder)])
        try:
            assert not runs.kill_hypervisor(replace(guest, pid=other.pid))
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()
        assert runs.kill_hypervisor(guest)
        assert becomes(lambda: not is_running(pids[1]), 10)
        assert not runs.kill_hypervisor(guest)


def test_clock_that_was_set_makes_no_owner_dead(folder: Path) -> None:
    """psutil computes when a process started from that clock: set forward, each owner is younger than its guest."""
    with kept_guest(folder) as pids:
        (guest,) = live_guests(folder)
        record = guest.folder / "guest.json"
        alive = json.loads(record.read_text()) | {"owner": os.getpid(), "owner_start": find_start(os.getpid())}
        record.write_text(json.dumps(alive | {"started": 1.0}))
        assert reap_kept(folder) == []
        assert all(map(is_running, pids))
        # A later process with the owner's number is not the owner.
        record.write_text(json.dumps(alive | {"owner_start": 1.0}))
        assert [guest.name for guest in reap_kept(folder)] == ["kept"]


def test_guest_that_shuts_down_leaves_nothing(folder: Path) -> None:
    with kept_guest(folder) as pids:
        os.kill(pids[1], signal.SIGTERM)
        assert becomes(lambda: not any(map(is_running, pids)) and not list(folder.iterdir()), 10)


def test_guest_that_nobody_could_find_is_not_kept(tmp_path: Path) -> None:
    """On a full disk, nothing can be told of it."""
    with mounted(tmp_path / "small", "size=128k") as folder, kept_guest(folder, "full") as pids:
        assert becomes(lambda: not any(map(is_running, pids)) and not list(folder.iterdir()), 10)


def test_guest_that_is_only_held_ends_with_its_run(folder: Path) -> None:
    """As one that did not boot, while somebody looks at it in the debugger."""
    argv = [sys.executable, "-c", OWNER, str(folder), json.dumps(ABOUT), "held"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())
        assert all(map(is_running, pids))
        process.kill()
    assert becomes(lambda: not any(map(is_running, pids)) and not list(folder.iterdir()), 10)


def test_kept_guest_outlives_a_run_that_is_killed(folder: Path) -> None:
    with kept_guest(folder, "killed") as pids:
        # What ends with the connections of the run ends within this time.
        assert not becomes(lambda: not is_running(pids[1]), 0.5)
        (guest,) = live_guests(folder)
        assert runs.end_kept(guest)
        assert becomes(lambda: not list(folder.iterdir()))


def test_run_and_connection_that_end_at_the_same_moment(folder: Path) -> None:
    about = ABOUT | {"owner": os.getpid()}
    with subprocess.Popen(["sleep", "600"]) as run_process, runs.new_run(folder) as (run, lock):
        guardian = Guardian(run, lock)
        with guardian.guard(run / "kept", [], about) as kept, guardian.guard(run / "shared", [], about) as shared:
            for process in (kept, shared):
                start(process)
            kept.keep({"kept": KEPT})
            shared.keep({"run": "run-1"}, run_process=run_process.pid)
            # The guardian sees all at once that happens while it is stopped. What waits for it lets it go on.
            os.kill(guardian.pid, signal.SIGSTOP)
            assert becomes(lambda: psutil.Process(guardian.pid).status() == psutil.STATUS_STOPPED)
            run_process.kill()
            run_process.wait(10)
            shared.close()
            assert becomes(lambda: not shared.folder.exists())
            assert not becomes(lambda: not live_guests(folder), 0.2)
        guardian.close()
    (guest,) = live_guests(folder)
    assert runs.end_kept(guest)


def test_killed_guardian_leaves_what_the_next_run_removes(folder: Path) -> None:
    with kept_guest(folder) as pids:
        os.kill(pids[0], signal.SIGKILL)
        assert becomes(lambda: not any(map(is_running, pids)), 10)
        (run,) = folder.iterdir()
        assert reap_kept(folder) == []
        assert reap(folder) == [run]


@pytest.fixture
def ended_process() -> Iterator[int]:
    """A process that has ended, and that nobody waits for, as in a container whose first process is no init."""
    with subprocess.Popen(["true"]) as process:
        assert becomes(lambda: not is_running(process.pid))
        assert psutil.pid_exists(process.pid)
        yield process.pid


def test_guest_that_nobody_waits_for_has_ended(folder: Path, ended_process: int) -> None:
    with kept_guest(folder):
        (guest,) = live_guests(folder)
        record = guest.folder / "guest.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": ended_process}))
        assert live_guests(folder) == []
        begin = time.monotonic()
        assert reap_kept(folder) == []
        assert time.monotonic() - begin < 2


def test_owner_that_nobody_waits_for_is_dead(folder: Path, ended_process: int) -> None:
    with kept_guest(folder) as pids:
        (guest,) = live_guests(folder)
        record = guest.folder / "guest.json"
        owner = {"owner": ended_process, "owner_start": find_start(ended_process)}
        record.write_text(json.dumps(json.loads(record.read_text()) | owner))
        assert [ended.name for ended in reap_kept(folder)] == ["kept"]
        assert becomes(lambda: not is_running(pids[1]))


def test_hypervisor_that_nobody_waits_for_is_killed_at_once(folder: Path) -> None:
    run = folder / "run"
    program = [sys.executable, "-c", "import time; time.sleep(600)", str(run / "guest" / "hypervisor.pid")]
    with subprocess.Popen(["sh", "-c", '"$@" & exec sleep 600', "sh", *program]) as parent:
        try:
            assert becomes(lambda: parent.pid not in (found := runs.find_hypervisors_of(run)) and len(found) == 1)
            (pid,) = runs.find_hypervisors_of(run)
            begin = time.monotonic()
            runs.kill_hypervisors_of(run)
            assert time.monotonic() - begin < 2
            assert not is_running(pid)
        finally:
            parent.kill()


@pytest.mark.thorough
def test_another_process_with_its_number_is_spared(folder: Path) -> None:
    """The guest and its guardian are dead, and their run's folder is still there."""
    with kept_guest(folder) as pids:
        os.kill(pids[0], signal.SIGKILL)
        assert becomes(lambda: not any(map(is_running, pids)), 10)
    other = subprocess.Popen(["sleep", "600"])
    try:
        (record,) = folder.glob("*/*/guest.json")
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": other.pid}))
        (guest,) = live_guests(folder)
        assert not runs.end_kept(guest)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
