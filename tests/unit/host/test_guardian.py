"""The guardian with real processes in the place of hypervisors: what dies, what goes, and when."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import becomes, is_running

from pytest_xhyve.host import runs
from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.host.runs import GuestRecord
from pytest_xhyve.model.errors import HypervisorExited, HypervisorNotFound, XhyveError

ABOUT = {"name": "g", "image": "tiny", "image_disk": "/images/tiny", "owner": 1, "uuid": "u", "hypervisor": "cat"}
SLEEP = ["sleep", "600"]


@pytest.fixture
def process(guardian: Guardian, run_folder: Path) -> Iterator[GuardedProcess]:
    (run,) = run_folder.iterdir()
    with guardian.guard(run / "g", [], ABOUT) as process:
        yield process


def test_starts_in_the_guests_folder_and_tells_of_it(process: GuardedProcess) -> None:
    process.start(SLEEP, {"started": 0}, {})
    assert process.pid is not None
    started = psutil.Process(process.pid)
    assert started.cwd() == str(process.folder)
    assert os.getsid(started.pid) == started.pid
    record = GuestRecord.read(process.folder / "guest.json")
    assert record is not None
    assert (record.pid, record.name) == (process.pid, "g")


def test_tells_how_it_ended_and_what_it_said(process: GuardedProcess) -> None:
    process.start(["sh", "-c", "echo out; echo err >&2; exit 7"], {}, {})
    assert process.wait(10) == 7
    assert process.poll() == 7
    assert process.output() == "out\nerr"


def test_signals_arrive_and_are_not_inherited_as_ignored(process: GuardedProcess) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.start(SLEEP, {}, {})
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == -number


def test_program_that_is_not_there(process: GuardedProcess) -> None:
    with pytest.raises(HypervisorNotFound, match=r"cannot start no-such-program: .*No such file"):
        process.start(["no-such-program"], {}, {})
    process.start(["true"], {}, {})
    assert process.wait(10) == 0


def test_descriptors_arrive_under_their_numbers(process: GuardedProcess, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as file:
        process.start([sys.executable, "-c", "import os; os.write(10, b'through')"], {}, {10: file.fileno()})
        assert process.wait(10) == 0
    assert (tmp_path / "given").read_text() == "through"


def test_any_number_may_be_given(process: GuardedProcess, tmp_path: Path) -> None:
    numbers = [10, 11, 12, 20, 21, 40, 63]
    code = f"import os; [os.write(number, b'%d;' % number) for number in {numbers}]"
    with (tmp_path / "given").open("w") as file:
        process.start([sys.executable, "-c", code], {}, dict.fromkeys(numbers, file.fileno()))
        assert process.wait(10) == 0
    assert (tmp_path / "given").read_text() == "10;11;12;20;21;40;63;"


def test_error_about_a_file_that_is_gone_is_told(process: GuardedProcess) -> None:
    process.folder.rmdir()
    with pytest.raises(OSError, match=r"No such file or directory: '.*/g/hypervisor.log'"):
        process.start(SLEEP, {}, {})


def test_held_lock_lasts_until_the_hypervisor_is_gone(guardian: Guardian, run_folder: Path, tmp_path: Path) -> None:
    (run,) = run_folder.iterdir()
    lock = tmp_path / "slot"
    fd = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)

    def is_free() -> bool:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with guardian.guard(run / "g", [fd], ABOUT) as process:
        process.start(SLEEP, {}, {})
        assert not is_free()
    assert is_free()


def test_end_takes_less_than_a_tenth_of_a_second(guardian: Guardian, run_folder: Path) -> None:
    (run,) = run_folder.iterdir()
    took = []
    for number in range(3):
        with guardian.guard(run / f"g{number}", [], ABOUT) as process:
            process.start(SLEEP, {}, {})
            (process.folder / "disk").write_bytes(bytes(1 << 20))
            start = time.monotonic()
            process.close()
            took.append(time.monotonic() - start)
        assert not process.folder.exists()
        assert process.pid is not None
        assert not psutil.pid_exists(process.pid)
    assert min(took) < 0.1, took


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can free a part of a file")
@pytest.mark.parametrize("kept", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_a_guest_prints_has_a_bound(process: GuardedProcess, kept: bool) -> None:
    """Also while no test looks at the guest, and after the run."""
    logs = [process.folder / name for name in ("console.log", "hypervisor.log")]
    print_much = "head -c 64000000 /dev/zero | tr '\\0' x | tee console.log; echo end; exec sleep 600"
    process.start(["sh", "-c", print_much], {}, {})
    assert process.pid is not None
    if kept:
        process.keep({})
        process.close()
    assert becomes(lambda: all(log.exists() and log.stat().st_size >= 64_000_000 for log in logs), 60)
    assert becomes(lambda: all(log.stat().st_blocks * 512 < 17 << 20 for log in logs), 30)
    assert process.output().endswith("xend")
    assert len(process.output()) < 1 << 16
    os.kill(process.pid, signal.SIGKILL)


def test_what_the_hypervisor_started_goes_with_it(process: GuardedProcess) -> None:
    process.start(["sh", "-c", "sleep 600 & echo $! && wait"], {}, {})
    assert becomes(lambda: process.output().isdecimal())
    child = int(process.output())
    process.close()
    assert becomes(lambda: not is_running(child))


def test_trouble_of_one_guest_is_not_anothers(guardian: Guardian, process: GuardedProcess, run_folder: Path) -> None:
    """A folder that is gone stands for a full disk: the guardian can write nothing there."""
    process.start(SLEEP, {}, {})
    (run,) = run_folder.iterdir()
    with guardian.guard(run / "other", [], ABOUT) as other:
        other.folder.rmdir()
        with pytest.raises(FileNotFoundError, match=r"hypervisor\.log"):
            other.start(SLEEP, {}, {})
    assert process.poll() is None
    assert guardian.is_alive()


def test_taken_name_harms_nobody(guardian: Guardian, process: GuardedProcess, tmp_path: Path) -> None:
    (process.folder / "disk").touch()
    slot = os.open(tmp_path / "slot", os.O_RDWR | os.O_CREAT)
    with (
        pytest.raises(XhyveError, match="already has a guest named 'g'"),
        guardian.guard(process.folder, [slot], ABOUT),
    ):
        pass
    assert (process.folder / "disk").exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(slot)


def test_start_after_an_end_that_nobody_waited_for(process: GuardedProcess) -> None:
    process.start(["true"], {}, {})
    time.sleep(0.2)
    process.start(SLEEP, {}, {})
    assert process.poll() is None


def test_run_ends_at_once_though_a_forked_child_lives(tmp_path: Path) -> None:
    with runs.new_run(tmp_path) as (folder, lock):
        guardian = Guardian(folder, lock)
        # As a worker process of the test's own: it has every descriptor that we have.
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        try:
            start = time.monotonic()
            guardian.close()
            assert time.monotonic() - start < 5
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert not list(tmp_path.iterdir())


def test_killed_guardian_takes_the_hypervisor_along(guardian: Guardian, process: GuardedProcess) -> None:
    process.start(SLEEP, {}, {})
    pid = process.pid
    assert pid is not None
    os.kill(guardian.pid, signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert becomes(lambda: not is_running(pid))
    with pytest.raises(HypervisorExited, match="guardian process of this run was killed"):
        process.start(SLEEP, {}, {})
    process.close()
    assert not process.folder.exists()


def test_stopped_guardian_is_continued(
    guardian: Guardian, process: GuardedProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_xhyve.host.guardian._STOPPED_SECONDS", 0.2)
    os.kill(guardian.pid, signal.SIGSTOP)
    process.start(SLEEP, {}, {})
    pid = process.pid
    assert pid is not None
    os.kill(guardian.pid, signal.SIGSTOP)
    process.kill("sleep")
    os.kill(guardian.pid, signal.SIGSTOP)
    process.close()
    assert not process.folder.exists()
    assert not is_running(pid)


@contextlib.contextmanager
def descriptors(pid: int, most: int) -> Iterator[None]:
    """Let process *pid* open no descriptor from *most* on."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
def test_guardian_without_descriptors(guardian: Guardian, process: GuardedProcess, run_folder: Path) -> None:
    """It refuses what it cannot do, and states why; its other guests go on, and later ones start."""
    process.start(SLEEP, {}, {})
    (run,) = run_folder.iterdir()
    used = len(list(Path(f"/proc/{guardian.pid}/fd").iterdir()))
    for more in range(4):
        with (
            descriptors(guardian.pid, used + more),
            pytest.raises(OSError, match="Too many open files"),
            guardian.guard(run / "other", [os.open(os.devnull, os.O_RDONLY)], ABOUT) as other,
        ):
            other.start(SLEEP, {}, {10: 0, 11: 0, 12: 0})
        assert guardian.is_alive()
        assert process.poll() is None
    with guardian.guard(run / "other", [], ABOUT) as other:
        other.start(SLEEP, {}, {10: 0})
        assert other.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
def test_guardian_that_may_start_no_process(guardian: Guardian, process: GuardedProcess) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may start any number")
    before = resource.prlimit(guardian.pid, resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    with pytest.raises(XhyveError, match=r"cannot start sleep: .*\n.*ulimit -u"):
        process.start(SLEEP, {}, {})
    resource.prlimit(guardian.pid, resource.RLIMIT_NPROC, before)
    process.start(SLEEP, {}, {})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the limits of another process")
def test_hypervisor_may_open_few_files(process: GuardedProcess) -> None:
    """Each connection of a guest takes one, and memory of the host."""
    process.start(SLEEP, {}, {10: 0})
    assert process.pid is not None
    assert max(resource.prlimit(process.pid, resource.RLIMIT_NOFILE)) <= 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
def test_few_descriptors_are_enough(guardian: Guardian, process: GuardedProcess) -> None:
    with descriptors(guardian.pid, 64):
        process.start(SLEEP, {}, {10: 0, 11: 0, 12: 0})
        assert process.poll() is None


def test_limit_of_descriptors_is_raised(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1024:
        pytest.skip(f"this user may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with runs.new_run(tmp_path) as (folder, lock), contextlib.closing(Guardian(folder, lock)) as guardian:
            assert resource.prlimit(guardian.pid, resource.RLIMIT_NOFILE)[0] >= 1024
        # From 1024 on, select(2) takes none.
        with contextlib.ExitStack() as opened:
            while opened.enter_context(Path(os.devnull).open()).fileno() < 1024:
                pass
            ours, theirs = map(opened.enter_context, socket.socketpair())
            assert ours.fileno() >= 1024
            assert not is_readable(ours, 0)
            theirs.send(b"x")
            assert is_readable(ours, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
