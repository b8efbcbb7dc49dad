"""Admission over real processes, which need no guests: a slot is a locked file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.queue import Queue
from pytest_xhyve.fleet.slots import Holder, Slots
from pytest_xhyve.host.memory import Memory
from pytest_xhyve.model.errors import Cancelled, NoFreeSlot

GIB = 1 << 30
HOST = Memory(4 * GIB, 4 * GIB, "this host")

# Each argument is a step: take N guests, give back the last guest, or wait for a line; each prints a line.
_PROCESS = """
import sys
from contextlib import ExitStack
from pathlib import Path
from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.host.memory import Memory
from pytest_xhyve.model.errors import NoFreeSlot

folder, limit, name, *steps = sys.argv[1:]
memory = Memory(4 << 30, 4 << 30, "this host")
admission = Admission(Path(folder), int(limit), 0.05, lambda line: print(line, flush=True), memory, silent=0.1)
guests = []
import os
try:
    for step in steps:
        if step == "wait":
            sys.stdin.readline()
        elif step == "give":
            stack, fd = guests.pop()
            os.close(fd)
            stack.close()
            print("gave", flush=True)
        else:
            weights = [int(weight) << 20 for weight in step.split(",")]
            admission.reserve(weights, name)
            for weight in weights:
                stack = ExitStack()
                guests.append((stack, admission.acquire(stack, weight, name).fd))
            print("got", step, flush=True)
except NoFreeSlot as error:
    print("failed", " | ".join(str(error).splitlines()), flush=True)
sys.stdin.read()
"""


class Worker:
    """A process that takes guests and gives them back."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a `Worker`: its limit, its name, and its steps."""
    with ExitStack() as stack:

        def one(limit: int, name: str, *steps: str) -> Worker:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROCESS, tmp_path, str(limit), name, *steps],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return Worker(process)

        yield one


def admission_of(folder: Path, limit: int, report: Callable[[str], None] = print, factor: float = 1.0) -> Admission:
    return Admission(folder, limit, factor, report, HOST, silent=0.1)


def without_time(line: str) -> str:
    return re.sub(r", [\d.]+ s so far", ", N s so far", line)


@contextmanager
def holding(folder: Path, *weights: int, limit: int = 10) -> Iterator[None]:
    slots = Slots(folder, limit, 3 * GIB).take(weights, Holder(1, "another test"))
    assert slots is not None
    try:
        yield
    finally:
        for slot in slots:
            os.close(slot.fd)


def numbers_of_free(folder: Path, limit: int) -> list[int]:
    slots = Slots(folder, limit, 3 * GIB)
    held = {slot.number for slot in slots.held()}
    return [number for number in range(limit) if number not in held]


class TestLimits:
    def test_more_guests_than_the_limit_fail_at_once_with_the_figures(self, tmp_path: Path) -> None:
        with pytest.raises(NoFreeSlot) as caught:
            admission_of(tmp_path, 2).reserve([GIB, GIB, GIB // 2])
        assert str(caught.value).splitlines() == [
            "no 3 free slots, which the test needs at once: the limit of running guests is 2, and of their memory "
            "3 GiB (three quarters of the 4 GiB of this host); 3 guests need 2.5 GiB",
            "  waiting is useless: ask for fewer or smaller guests, or raise --xhyve-max-guests",
        ]
        assert not list(tmp_path.glob("*.lock"))

    def test_more_memory_than_the_limit_fails_at_once(self, tmp_path: Path) -> None:
        with (
            ExitStack() as stack,
            pytest.raises(NoFreeSlot, match=r"no free slot: .* 3 GiB .*; 1 guest needs 3\.5 GiB"),
        ):
            admission_of(tmp_path, 200).acquire(stack, 7 * GIB // 2)

    def test_does_not_wait_for_itself(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 1)
        with ExitStack() as stack:
            admission.acquire(stack)
            with pytest.raises(NoFreeSlot, match=r"limit of running guests is 1\n.* this process holds 1 of them"):
                admission.acquire(stack)

    def test_waits_for_a_thread_of_its_own_process(self, tmp_path: Path) -> None:
        """A thread that goes on may remove its guest."""
        admission = admission_of(tmp_path, 1)
        has_one, may_end = threading.Event(), threading.Event()

        def hold() -> None:
            with ExitStack() as stack:
                fd = admission.acquire(stack).fd
                has_one.set()
                may_end.wait(10)
                os.close(fd)

        thread = threading.Thread(target=hold)
        thread.start()
        assert has_one.wait(10)
        threading.Timer(0.2, may_end.set).start()
        with ExitStack() as stack:
            assert admission.acquire(stack).number == 0
        thread.join()

    def test_timeout_names_who_holds_the_guests(self, tmp_path: Path) -> None:
        lines: list[str] = []
        with holding(tmp_path, GIB, limit=1), ExitStack() as stack, pytest.raises(NoFreeSlot) as caught:
            admission_of(tmp_path, 1, lines.append, 0.0004).acquire(stack, GIB)
        assert [without_time(line) for line in lines] == [
            "waiting for a free slot, N s so far: the limit of running guests is 1 (--xhyve-max-guests); "
            "running: 1 guest (1 GiB): another test (process 1)"
        ]
        assert "(waited 0 s)\n  1 guest (1 GiB): another test (process 1)\n" in str(caught.value)

    def test_short_wait_is_not_reported(self, tmp_path: Path) -> None:
        lines: list[str] = []
        admission = Admission(tmp_path, 1, 0.001, lines.append, HOST)
        with holding(tmp_path, GIB, limit=1), ExitStack() as stack, pytest.raises(NoFreeSlot, match=r"waited 1 s"):
            admission.acquire(stack, GIB)
        assert lines == []

    def test_line_names_the_memory_if_that_is_what_is_missing(self, tmp_path: Path) -> None:
        lines: list[str] = []
        with holding(tmp_path, GIB, GIB), ExitStack() as stack, pytest.raises(NoFreeSlot):
            admission_of(tmp_path, 10, lines.append, 0.0004).acquire(stack, 2 * GIB)
        (line,) = lines
        assert without_time(line).startswith(
            "waiting for a free slot, N s so far: running guests take 2 GiB of the 3 GiB of memory that they may take, "
            "and 1 guest more take 2 GiB; running: 2 guests (2 GiB): another test"
        )


class TestReserved:
    def test_are_given_out_one_by_one_and_released(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 2)
        admission.reserve([0, 0])
        with ExitStack() as stack:
            os.close(admission.acquire(stack).fd)
            assert numbers_of_free(tmp_path, 2) == [0]
            admission.release_reserved()
            assert numbers_of_free(tmp_path, 2) == [0, 1]

    def test_are_not_reserved_twice(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 10)
        admission.reserve([1, 2])
        admission.reserve([2])
        admission.reserve([2, 2])
        assert numbers_of_free(tmp_path, 4) == [3]

    def test_are_given_to_the_guest_of_that_size(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 10)
        admission.reserve([GIB, 5, 7])
        with ExitStack() as stack:
            assert [admission.acquire(stack, weight).weight for weight in (6, 5, GIB)] == [7, 5, GIB]

    def test_grow_if_the_guest_is_larger_and_there_is_room(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 10)
        admission.reserve([5, 7])
        with ExitStack() as stack:
            assert admission.acquire(stack, GIB).weight == GIB
            with pytest.raises(NoFreeSlot, match="this process holds 1 of them"):
                admission.acquire(stack, 5 * GIB // 2)
        assert sorted(slot.weight for slot in Slots(tmp_path, 10, 0).held()) == [GIB]


class TestSpare:
    def test_slot_is_never_the_last(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 2)
        with ExitStack() as stack:
            assert admission.acquire_spare(stack, 0).number == 0
            with pytest.raises(Cancelled):
                admission.acquire_spare(stack, 0)
            # The failed attempt holds nothing.
            assert admission.acquire(stack).number == 1

    def test_slot_is_not_taken_while_a_test_waits(self, tmp_path: Path) -> None:
        queue = Queue(tmp_path / "queue")
        with queue.locked():
            ticket = queue.join(Holder(1, "another test"), 1)
        with closing(ticket), ExitStack() as stack, pytest.raises(Cancelled):
            admission_of(tmp_path, 5).acquire_spare(stack, 0)

    def test_others_that_wait_are_of_other_processes(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 5)
        for pid, others in ((os.getpid(), False), (1, True)):
            queue = Queue(tmp_path / "queue")
            with queue.locked():
                ticket = queue.join(Holder(pid, "a test"), 1)
                ticket.update([])
            with closing(ticket):
                assert admission.others_wait() == others
        (tmp_path / "queue" / "lock").unlink()
        (tmp_path / "queue").rmdir()
        assert not admission.others_wait()

    def test_guest_gives_way(self, tmp_path: Path) -> None:
        admission = admission_of(tmp_path, 2)
        with ExitStack() as spare, ExitStack() as stack, holding(tmp_path, 0, limit=1):
            fd = admission.acquire(spare).fd

            def free_slot() -> bool:
                admission.free_slot = lambda: False
                os.close(fd)
                spare.close()
                return True

            admission.free_slot = free_slot
            assert admission.acquire(stack).number == 1


class TestQueue:
    def test_first_come_first_served(self, start: Start) -> None:
        """The second, which needs one guest, does not overtake the first, which needs two."""
        holder = start(2, "holder", "1", "wait", "give")
        assert holder.line() == "got 1"
        first = start(2, "first", "1,1", "wait", "give", "give")
        assert without_time(first.line()).startswith(
            "waiting for 2 free slots, N s so far: the limit of running guests is 2"
        )
        second = start(2, "second", "1")
        assert "; 1 asked before; running: 1 guest (1 MiB): holder (process" in second.line()
        holder.go_on()
        assert holder.line() == "gave"
        assert first.line() == "got 1,1"
        first.go_on()
        assert first.line() == "gave"
        assert second.line() == "got 1"

    @pytest.mark.parametrize("killed", ["holder", "waiter"])
    def test_kill_9_frees_what_it_held_and_its_turn(self, start: Start, killed: str) -> None:
        holder = start(1, "holder", "1", "wait", "give")
        assert holder.line() == "got 1"
        first = start(1, "first", "1")
        assert first.line().startswith("waiting")
        second = start(1, "second", "1")
        assert second.line().startswith("waiting")
        begin = time.monotonic()
        if killed == "holder":
            holder.process.kill()
            assert first.line() == "got 1"
        else:
            first.process.kill()
            holder.go_on()
            assert second.line() == "got 1"
        assert time.monotonic() - begin < 2

    def test_stopped_process_is_passed_over_and_keeps_its_place(self, start: Start, tmp_path: Path) -> None:
        holder = start(1, "holder", "1", "wait", "give")
        assert holder.line() == "got 1"
        stopped = start(1, "stopped", "1")
        assert stopped.line().startswith("waiting")
        stopped.process.send_signal(signal.SIGSTOP)
        holder.go_on()
        admission = Admission(tmp_path, 1, 1.0, print, HOST, stopped_after=0.3)
        begin = time.monotonic()
        with ExitStack() as stack:
            fd = admission.acquire(stack).fd
            assert 0.3 < time.monotonic() - begin < 3
            stopped.process.send_signal(signal.SIGCONT)
            os.close(fd)
        assert stopped.line() == "got 1"

    def test_garbage_in_the_queue_is_no_obstacle(self, tmp_path: Path) -> None:
        folder = tmp_path / "queue"
        folder.mkdir()
        for name, content in {"000000000007": b"\xff", "000000000008": b"", "nonsense": b"1", "9": b"{}"}.items():
            (folder / name).write_bytes(content)
        (folder / "000000000010").mkdir()
        os.mkfifo(folder / "000000000011")
        admission = admission_of(tmp_path, 1)
        with ExitStack() as stack:
            os.close(admission.acquire(stack).fd)
        assert not {"000000000007", "000000000008", "000000000011"} & {path.name for path in folder.iterdir()}

    def test_ticket_of_garbage_still_has_its_turn(self, tmp_path: Path) -> None:
        queue = Queue(tmp_path / "queue")
        with queue.locked():
            ticket = queue.join(Holder(1, "another test"), 1)
        (tmp_path / "queue" / "000000000000").write_bytes(b"\xff[")
        with ExitStack() as stack:
            threading.Timer(0.2, ticket.close).start()
            begin = time.monotonic()
            admission_of(tmp_path, 1).acquire(stack)
            assert time.monotonic() - begin > 0.1


class TestDeadlock:
    def test_the_one_who_asked_last_fails_within_two_seconds(self, start: Start) -> None:
        first = start(2, "test_a.py::test_first", "1", "wait", "1")
        assert first.line() == "got 1"
        last = start(2, "test_b.py::test_last", "1", "wait", "1")
        assert last.line() == "got 1"
        first.go_on()
        assert first.line().startswith("waiting")
        begin = time.monotonic()
        last.go_on()
        assert last.line().startswith("waiting")
        line = last.line()
        assert time.monotonic() - begin < 2
        assert line.startswith("failed no free slot: the limit of running guests is 2")
        assert "|   deadlock: every running guest belongs to a test that waits for more" in line
        assert f"1 guest (1 MiB): test_a.py::test_first (process {first.process.pid})" in line
        assert f"1 guest (1 MiB): test_b.py::test_last (process {last.process.pid})" in line
        assert "--xhyve-max-guests" in line
        # Its guests are removed, and the first one goes on.
        last.process.kill()
        assert first.line() == "got 1"

    def test_guest_of_a_whole_run_is_no_way_out(self, start: Start) -> None:
        run = start(3, "the run", "1", "wait")
        assert run.line() == "got 1"
        first = start(3, "first", "1", "wait", "1")
        assert first.line() == "got 1"
        last = start(3, "last", "1", "wait", "1")
        assert last.line() == "got 1"
        first.go_on()
        assert first.line().startswith("waiting")
        last.go_on()
        assert last.line().startswith("waiting")
        assert "deadlock" in last.line()

    def test_waiting_without_guests_is_none(self, start: Start) -> None:
        """The holder does not wait, so it will give its guest back."""
        holder = start(1, "holder", "1", "wait", "give")
        assert holder.line() == "got 1"
        waiter = start(1, "waiter", "1")
        assert waiter.line().startswith("waiting")
        time.sleep(0.8)
        holder.go_on()
        assert waiter.line() == "got 1"

    def test_holder_overtakes_one_that_waits_for_it(self, start: Start) -> None:
        """The first in the queue needs two slots, and cannot get them before the holder, who needs one, has ended."""
        holder = start(2, "holder", "1", "wait", "1", "give", "give")
        assert holder.line() == "got 1"
        first = start(2, "first", "1,1")
        assert first.line().startswith("waiting")
        holder.go_on()
        assert [holder.line() for _ in range(3)] == ["got 1", "gave", "gave"]
        assert first.line() == "got 1,1"

    def test_two_tests_that_need_two_guests_at_once_take_turns(self, start: Start) -> None:
        workers = [start(2, f"worker {number}", *["1,1", "give", "give"] * 20) for number in range(2)]
        for worker in workers:
            lines = [worker.line() for _ in range(60)]
            assert not any("failed" in line for line in lines)


def test_lock_that_is_not_released_is_an_error(tmp_path: Path) -> None:
    with (
        Queue(tmp_path / "queue").locked(),
        pytest.raises(NoFreeSlot, match=r"another process holds .*/queue/lock"),
        Queue(tmp_path / "queue").locked(0.05),
    ):
        pytest.fail("it was held twice")
