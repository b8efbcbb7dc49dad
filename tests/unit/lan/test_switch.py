"""The switch: a real process under a real guardian, with sockets in the place of guests."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dpkt
import psutil
import pytest
from waiting import becomes, is_running

from pytest_xhyve.host import runs
from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess, Guardian
from pytest_xhyve.lan.frames import MAX_FRAME
from pytest_xhyve.lan.switch import Switch, running_switch
from pytest_xhyve.model.errors import LanFailed, XhyveError
from pytest_xhyve.model.link import Impairment

SECONDS = 10
EVERYBODY = b"\xff" * 6
QUIET_SECONDS = 0.05


class Cable:
    """A guest's end of a cable."""

    def __init__(self, number: int, end: socket.socket) -> None:
        self.mac = bytes([0x52, 0x55, 0, 0, 0, number])
        self.end = end
        end.settimeout(SECONDS)

    def send(self, target: bytes, text: bytes) -> None:
        self.end.sendall(as_sent(target + self.mac + b"\x08\x00" + text))

    def receive(self) -> bytes:
        """The text of the next frame."""
        return self.receive_frame()[14:]

    def receive_frame(self) -> bytes:
        (length,) = struct.unpack(">I", self._read(4))
        return self._read(length)

    def hears_nothing(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.end, selectors.EVENT_READ)
            return not selector.select(QUIET_SECONDS)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.end.recv(size - len(data))
            if not got:
                raise EOFError
            data += got
        return data


def as_sent(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


@pytest.fixture
def cables(switch: Switch) -> Iterator[tuple[Cable, Cable, Cable]]:
    with ExitStack() as stack:
        first, second, third = (Cable(number, plug_in(switch, name, stack)) for number, name in enumerate("abc"))
        yield first, second, third


def plug_in(switch: Switch, name: str, stack: ExitStack) -> socket.socket:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    with theirs:
        switch.connect(name, CableEnd(theirs))
    return ours


def test_frame_goes_to_all_until_its_target_has_sent_one(cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    a.send(b.mac, b"where are you?")
    assert b.receive() == c.receive() == b"where are you?"
    b.send(a.mac, b"here")
    assert a.receive() == b"here"
    a.send(b.mac, b"for b alone")
    assert b.receive() == b"for b alone"
    assert c.hears_nothing()


@pytest.mark.parametrize("target", [EVERYBODY, bytes.fromhex("33 33 00 00 00 01"), bytes.fromhex("01 00 5e 00 00 fb")])
def test_broadcast_and_multicast_go_to_all_others(cables: tuple[Cable, Cable, Cable], target: bytes) -> None:
    a, b, c = cables
    a.send(target, b"hello")
    assert b.receive() == c.receive() == b"hello"
    assert a.hears_nothing()


def test_address_that_moves_is_followed(cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    b.send(EVERYBODY, b"")
    assert a.receive() == c.receive() == b""
    c.mac = b.mac
    c.send(EVERYBODY, b"I am b now")
    assert a.receive() == b.receive() == b"I am b now"
    a.send(c.mac, b"text")
    assert c.receive() == b"text"
    assert b.hears_nothing()


def test_guest_that_starts_again_gets_a_new_cable(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, _ = cables
    b.send(EVERYBODY, b"")
    assert a.receive() == b""
    with ExitStack() as stack:
        again = Cable(1, plug_in(switch, "b", stack))
        with pytest.raises(EOFError):
            b.receive()
        a.send(again.mac, b"welcome back")
        assert again.receive() == b"welcome back"
    assert switch.counters()["a"].received == 1


def test_invented_addresses_do_not_hide_a_guest(cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    b.send(EVERYBODY, b"")
    assert c.receive() == b""
    for number in range(3000):
        c.end.sendall(as_sent(b.mac + struct.pack(">HI", 0x5256, number) + b"\x08\x00"))
    for _ in range(3000):
        b.receive()
    a.send(b.mac, b"still there?")
    assert a.receive() == b""
    assert b.receive() == b"still there?"


def test_frames_of_any_size(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    for size in (0, 1, 6, 13):
        a.end.sendall(as_sent(EVERYBODY.ljust(size, b"\0")[:size]))
    a.send(EVERYBODY, b"x" * (MAX_FRAME - 14))
    assert len(b.receive_frame()) == len(c.receive_frame()) == MAX_FRAME
    assert switch.counters()["a"].too_short == 4


def test_cable_with_something_else_than_frames_is_cut(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    a.end.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(EOFError):
        a.receive()
    assert switch.counters()["a"].broken == "it sent a frame of 1195725856 bytes"
    b.send(c.mac, b"we go on")
    assert c.receive() == b"we go on"


def test_guest_that_reads_nothing_holds_up_no_other(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, _ = cables
    for _ in range(3000):
        a.send(EVERYBODY, bytes(1000))
        b.receive()
    assert becomes(lambda: switch.counters()["a"].received == 3000)
    counters = switch.counters()
    assert counters["c"].overflowed > 0
    assert counters["c"].sent + counters["c"].overflowed <= 3000
    assert psutil.Process(switch.pid).memory_info().rss < 64 << 20


def test_frames_wait_for_a_guest_that_reads_late(cables: tuple[Cable, Cable, Cable]) -> None:
    """More than its cable takes: each frame arrives, whole and in order."""
    first, second, _ = cables
    second.send(EVERYBODY, b"here I am")
    assert first.receive() == b"here I am"
    texts = [bytes([number]) * 9000 for number in range(80)]
    for text in texts:
        first.send(second.mac, text)
        # One at a time, as those of a ping.
        time.sleep(0.002)
    assert [second.receive() for _ in texts] == texts


def test_request_of_any_length(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    others = [f"node{number}" for number in range(1, 128)]
    switch.block([("a", "b"), *((one, other) for one in others for other in others)])
    a.send(EVERYBODY, b"text")
    assert c.receive() == b"text"
    assert b.hears_nothing()


def test_late_answer_is_not_taken_for_that_of_the_next_request(switch: Switch, cables: tuple[Cable, ...]) -> None:
    seconds = switch._channel.socket.gettimeout()
    os.kill(switch.pid, signal.SIGSTOP)
    switch._channel.socket.settimeout(0.05)
    with pytest.raises(LanFailed, match="did not answer"):
        switch.heal()
    switch._channel.socket.settimeout(seconds)
    os.kill(switch.pid, signal.SIGCONT)
    assert set(switch.counters()) == {"a", "b", "c"}


def test_storm_does_not_delay_the_plugin(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, *_ = cables
    a.end.setblocking(False)
    frames = as_sent(EVERYBODY + a.mac + bytes(1500)) * 100
    begin = time.monotonic()
    slowest = 0.0
    while time.monotonic() < begin + 0.5:
        try:
            a.end.send(frames)
        except BlockingIOError:
            asked = time.monotonic()
            switch.counters()
            slowest = max(slowest, time.monotonic() - asked)
    assert 0 < slowest < 1


def test_two_lans_hear_nothing_of_each_other(guardian: Guardian, run_folder: Path, switch: Switch) -> None:
    (run,) = run_folder.iterdir()
    with ExitStack() as stack:
        process = stack.enter_context(guardian.guard(run / "other", [], {"lan": "other"}))
        other = stack.enter_context(running_switch(process, "other"))
        a, b = Cable(0, plug_in(switch, "a", stack)), Cable(1, plug_in(switch, "b", stack))
        c, d = Cable(0, plug_in(other, "a", stack)), Cable(1, plug_in(other, "b", stack))
        for _ in range(1000):
            a.send(EVERYBODY, b"text")
            b.receive()
        c.send(EVERYBODY, b"the only one")
        assert d.receive() == b"the only one"
        assert (other.counters()["a"].received, other.counters()["b"].sent) == (1, 1)
        assert (switch.counters()["a"].received, switch.counters()["b"].sent) == (1000, 1000)


def test_switch_that_was_killed_is_reported_at_once(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    switch.check()
    os.kill(switch.pid, signal.SIGKILL)
    with pytest.raises(EOFError):
        cables[0].receive()
    with pytest.raises(LanFailed, match=rf"the switch of LAN lan \(process {switch.pid}\) has died"):
        switch.counters()
    assert becomes(lambda: _has_died(switch))


def _has_died(switch: Switch) -> bool:
    try:
        switch.check()
    except LanFailed:
        return True
    return False


def test_switch_dies_with_the_guardian(guardian: Guardian, switch: Switch) -> None:
    os.kill(guardian.pid, signal.SIGKILL)
    assert becomes(lambda: not is_running(switch.pid))


def test_switch_is_no_guest_and_its_run_owns_it(run_folder: Path, process: GuardedProcess, switch: Switch) -> None:
    (run,) = run_folder.iterdir()
    assert runs.live_guests(run_folder) == []
    assert runs.find_hypervisors_of(run) == [switch.pid]
    process.close()
    assert not psutil.pid_exists(switch.pid)


def test_kept_switch_ends_with_its_last_guest(guardian: Guardian, run_folder: Path) -> None:
    (run,) = run_folder.iterdir()
    with ExitStack() as stack:
        with guardian.guard(run / "kept", [], {"lan": "lan"}) as process, running_switch(process, "lan") as switch:
            a, b = Cable(0, plug_in(switch, "a", stack)), Cable(1, plug_in(switch, "b", stack))
            pid = switch.pid
            assert runs.kept_lans(run_folder, run.name) == []
            switch.keep()
            assert runs.kept_lans(run_folder, run.name) == [run / "kept"]
        a.send(EVERYBODY, b"still here")
        assert b.receive() == b"still here"
        a.end.close()
        assert is_running(pid)
    assert becomes(lambda: not is_running(pid))


def test_way_that_is_blocked(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    switch.block([("a", "b")])
    a.send(EVERYBODY, b"one")
    assert c.receive() == b"one"
    assert b.hears_nothing()
    b.send(EVERYBODY, b"two")
    assert a.receive() == b"two"
    switch.heal()
    a.send(EVERYBODY, b"three")
    assert b.receive() == b"three"


def test_late_frames_arrive_in_time(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, c = cables
    switch.impair([("a", "b")], Impairment(latency=0.1))
    begin = time.monotonic()
    a.send(EVERYBODY, b"text")
    assert c.receive() == b"text"
    assert b.receive() == b"text"
    assert 0.1 <= time.monotonic() - begin < 0.3
    switch.impair([("a", "b")], Impairment())
    a.send(EVERYBODY, b"now")
    assert b.receive() == b"now"


def test_capture_has_an_interface_for_each_guest(
    switch: Switch, cables: tuple[Cable, Cable, Cable], tmp_path: Path
) -> None:
    a, b, c = cables
    path = tmp_path / "lan.pcapng"
    with path.open("wb") as file, switch.capturing(file.fileno(), 1 << 20):
        with pytest.raises(LanFailed, match="captured already"), switch.capturing(file.fileno(), 1 << 20):
            pass
        a.send(b.mac, b"first, of 22 bytes    ")
        b.receive()
        b.send(EVERYBODY, b"second")
        c.receive()
        c.receive()
    a.send(b.mac, b"not any more")
    with path.open("rb") as written:
        frames = [bytes(frame)[14:] for _, frame in dpkt.pcapng.Reader(written)]
    assert frames == [b"first, of 22 bytes    ", b"second"]
    names = [path.read_bytes().find(name) for name in (b"\x02\x00\x01\x00a", b"\x02\x00\x01\x00b")]
    assert 0 < names[0] < names[1]


def test_capture_on_a_full_disk_states_so(switch: Switch, cables: tuple[Cable, Cable, Cable]) -> None:
    a, b, _ = cables
    with Path("/dev/full").open("wb") as file:
        captured = switch.capturing(file.fileno(), 1 << 20)
        captured.__enter__()
        a.send(EVERYBODY, b"text")
        assert b.receive() == b"text"
        with pytest.raises(XhyveError, match=r"ends after [01] frames: No space left on device"):
            captured.__exit__(None, None, None)
    a.send(EVERYBODY, b"the switch goes on")
    assert b.receive() == b"the switch goes on"


def test_frame_that_is_late_does_not_reach_a_guest_that_has_started_again(
    switch: Switch, cables: tuple[Cable, Cable, Cable]
) -> None:
    a, _, c = cables
    switch.impair([("a", "b"), ("a", "c")], Impairment(latency=0.1))
    a.send(EVERYBODY, b"text")
    assert becomes(lambda: switch.counters()["a"].received == 1)
    switch.heal()
    with ExitStack() as stack:
        again = Cable(1, plug_in(switch, "b", stack))
        assert c.receive() == b"text"
        assert again.hears_nothing()


def test_capture_that_reaches_its_limit_states_so(
    switch: Switch, cables: tuple[Cable, Cable, Cable], tmp_path: Path
) -> None:
    a, b, _ = cables
    path = tmp_path / "lan.pcapng"
    with path.open("wb") as file:
        captured = switch.capturing(file.fileno(), 200_000)
        captured.__enter__()
        for _ in range(300):
            a.send(EVERYBODY, bytes(1000))
            b.receive()
        with pytest.raises(
            XhyveError, match=r"ends after 1\d\d frames: the file has reached its limit; max_size= sets"
        ):
            captured.__exit__(None, None, None)
    assert 150_000 < path.stat().st_size <= 200_000
    with path.open("rb") as written:
        assert {len(frame) for _, frame in dpkt.pcapng.Reader(written)} == {1014}


def test_capture_is_up_to_date_if_the_switch_dies(
    switch: Switch, cables: tuple[Cable, Cable, Cable], tmp_path: Path
) -> None:
    a, b, _ = cables
    path = tmp_path / "lan.pcapng"
    with path.open("wb") as file:
        captured = switch.capturing(file.fileno(), 1 << 20)
        captured.__enter__()
        a.send(EVERYBODY, b"text")
        assert b.receive() == b"text"
        assert becomes(lambda: path.stat().st_size > 100)
        os.kill(switch.pid, signal.SIGKILL)
        with pytest.raises(LanFailed):
            captured.__exit__(None, None, None)
    with path.open("rb") as written:
        assert [bytes(frame)[14:] for _, frame in dpkt.pcapng.Reader(written)] == [b"text"]


def test_capture_into_a_pipe_that_is_not_read_holds_up_no_guest(
    switch: Switch, cables: tuple[Cable, Cable, Cable]
) -> None:
    a, b, _ = cables
    reader, writer = os.pipe()
    captured = switch.capturing(writer, 1 << 30)
    captured.__enter__()
    for _ in range(100):
        a.send(EVERYBODY, bytes(1000))
        assert len(b.receive()) == 1000
    with pytest.raises(XhyveError, match=r"ends after \d+ frames: Resource temporarily unavailable"):
        captured.__exit__(None, None, None)
    os.close(reader)
    os.close(writer)
