"""The switch with guests whose cables carry datagrams, as those of vfkit: sockets stand in their place."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from waiting import becomes, is_running

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.lan.frames import MAX_FRAME
from pytest_xhyve.lan.switch import Switch, running_switch

SECONDS = 10
EVERYBODY = b"\xff" * 6


class DatagramCable:
    """A guest's end of a cable. The guest ends with `close`."""

    def __init__(self, switch: Switch, name: str, number: int) -> None:
        self.mac = bytes([0x52, 0x55, 0, 0, 0, number])
        self.end, frames = socket.socketpair(type=socket.SOCK_DGRAM)
        self._life, life = socket.socketpair()
        self.end.settimeout(SECONDS)
        switch.connect(name, CableEnd(frames, life))
        for each in (frames, life):
            each.close()

    def send(self, target: bytes, text: bytes) -> None:
        self.end.send(target + self.mac + b"\x08\x00" + text)

    def receive(self) -> bytes:
        """The text of the next frame."""
        return self.end.recv(1 << 17)[14:]

    def close(self) -> None:
        self.end.close()
        self._life.close()


@pytest.fixture
def cables(switch: Switch) -> Iterator[tuple[DatagramCable, DatagramCable]]:
    with ExitStack() as stack:
        ends = [DatagramCable(switch, name, number) for number, name in enumerate("ab")]
        for end in ends:
            stack.callback(end.close)
        yield ends[0], ends[1]


def test_each_datagram_is_a_frame(switch: Switch, cables: tuple[DatagramCable, DatagramCable]) -> None:
    a, b = cables
    a.send(EVERYBODY, b"one")
    a.send(EVERYBODY, b"x" * (MAX_FRAME - 14))
    # What vfkit sends to a socket that it finds by a path, and other things that are no frames.
    for data in (b"VFKT", b"", bytes(13)):
        a.end.send(data)
    a.send(b.mac, b"last")
    assert [b.receive() for _ in range(3)] == [b"one", b"x" * (MAX_FRAME - 14), b"last"]
    b.send(a.mac, b"answer")
    assert a.receive() == b"answer"
    counters = switch.counters()
    assert (counters["a"].received, counters["a"].too_short, counters["b"].sent) == (6, 3, 3)


def test_guests_of_both_kinds_hear_each_other(switch: Switch, cables: tuple[DatagramCable, DatagramCable]) -> None:
    a, _ = cables
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(SECONDS)
        with theirs:
            switch.connect("c", CableEnd(theirs))
        frame = EVERYBODY + b"\x52\x55\0\0\0\x07\x08\x00hello"
        ours.sendall(struct.pack(">I", len(frame)) + frame)
        assert a.receive() == b"hello"
        a.send(b"\x52\x55\0\0\0\x07", b"welcome")
        assert ours.recv(100)[4 + 14 :] == b"welcome"


def test_guest_that_reads_nothing_holds_up_no_other(
    switch: Switch, cables: tuple[DatagramCable, DatagramCable]
) -> None:
    a, b = cables
    deaf = DatagramCable(switch, "deaf", 3)
    for _ in range(3000):
        a.send(EVERYBODY, bytes(1000))
        assert b.receive() == bytes(1000)
    counters = switch.counters()
    assert counters["deaf"].overflowed > 0
    assert counters["deaf"].sent + counters["deaf"].overflowed <= 3000
    assert psutil.Process(switch.pid).memory_info().rss < 64 << 20
    deaf.close()


def test_frame_that_is_too_long_cuts_the_cable(switch: Switch, cables: tuple[DatagramCable, DatagramCable]) -> None:
    a, b = cables
    a.end.send(bytes(MAX_FRAME + 100))
    assert becomes(lambda: switch.counters()["a"].broken == f"it sent a frame of {MAX_FRAME + 1} bytes")
    again = DatagramCable(switch, "a", 0)
    b.send(EVERYBODY, b"welcome back")
    assert again.receive() == b"welcome back"
    again.close()


def test_guest_that_ends_leaves_the_switch(switch: Switch, cables: tuple[DatagramCable, DatagramCable]) -> None:
    a, b = cables
    files = psutil.Process(switch.pid).num_fds()
    a.close()
    assert becomes(lambda: psutil.Process(switch.pid).num_fds() == files - 2)
    b.send(a.mac, b"into the void")
    b.send(EVERYBODY, b"into the void")
    assert becomes(lambda: switch.counters()["b"].received == 2)
    assert switch.counters()["a"].sent == 0


def test_kept_switch_ends_with_its_last_guest(guardian: Guardian, run_folder: Path) -> None:
    (run,) = run_folder.iterdir()
    with guardian.guard(run / "kept", [], {"lan": "lan"}) as process, running_switch(process, "lan") as switch:
        a, b = DatagramCable(switch, "a", 0), DatagramCable(switch, "b", 1)
        pid = switch.pid
        switch.keep()
    a.send(EVERYBODY, b"still here")
    assert b.receive() == b"still here"
    a.close()
    assert is_running(pid)
    b.close()
    assert becomes(lambda: not is_running(pid))
