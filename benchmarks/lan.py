"""What a LAN costs: the switch by itself, and three guests with a LAN and without.

Run it as ``python -m benchmarks.lan``. What is compared runs in turn, and the best of each counts: other work on the
host slows all of it. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks import product
from benchmarks.measure import Clock
from benchmarks.promise import Promise, at_least, at_most, show
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host import runs
from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.lan.switch import running_switch
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec

_FRAMES_PER_SECOND = 80_000
_AGAINST_ONE, _AGAINST_THREE = 1.6, 1.25
_OWN_CPU_SECONDS = 0.08
_FRAME_BYTES = 1500
_BATCH = 64
_GUESTS = 3


def main() -> int:
    """Measure, print, and tell whether all targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lan", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of the flood of frames (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="guests of each kind (default: 5)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    promises = [
        at_least("frames of 1,500 bytes through the switch alone", _flood(options.seconds), _FRAMES_PER_SECOND, "/s", 0)
    ]
    with product.fleet_of("auto", "warm", 8) as fleet:
        promises += _starts(fleet, options.rounds)
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


@contextmanager
def _cables() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The ends of two guests' cables to a switch of their own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run, lock = stack.enter_context(runs.new_run(folder))
        guardian = Guardian(run, lock)
        stack.callback(guardian.close)
        process = stack.enter_context(guardian.guard(run / "lan", [], {"lan": "lan"}))
        switch = stack.enter_context(running_switch(process, "lan"))
        ends = []
        for name in ("a", "b"):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            switch.connect(name, CableEnd(theirs))
            theirs.close()
            ends.append(ours)
        yield ends[0], ends[1]


def _flood(seconds: float) -> float:
    """The frames per second that pass from one cable to another; sender and receiver work on the same CPUs."""
    frame = b"\xff" * 6 + bytes(_FRAME_BYTES - 6)
    batch = (struct.pack(">I", len(frame)) + frame) * _BATCH
    with _cables() as (sender, receiver):
        is_over = threading.Event()

        def send() -> None:
            while not is_over.is_set():
                sender.sendall(batch)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        received = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            received += len(receiver.recv(1 << 20))
        is_over.set()
        receiver.shutdown(socket.SHUT_RDWR)
        thread.join(seconds)
    return received / (_FRAME_BYTES + 4) / seconds


def _starts(fleet: Fleet, rounds: int) -> list[Promise]:
    """The start of three guests, with a LAN and without, against one."""
    own, needed = [], []

    def cluster() -> None:
        before = product.own_cpu(fleet)
        with start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny", c="tiny"), "benchmark") as guests:
            needed.append(product.own_cpu(fleet) - before + _children_cpu(fleet))
            (switch,) = {switch for guest in guests for switch in guest._instance.lans.switches}
            used = sum(psutil.Process(switch.pid).cpu_times()[:2])
        own.append((product.own_cpu(fleet) - before + used) / _GUESTS)

    def start(_: int) -> Guest:
        return fleet.start(ForegroundRequest(GuestSpec(image="tiny")))

    def three() -> None:
        with ThreadPoolExecutor(_GUESTS) as threads:
            guests = list(threads.map(start, range(_GUESTS)))
        for guest in guests:
            guest.remove()

    ways: dict[str, Callable[[], None]] = {"one": lambda: start(0).remove(), "three": three, "cluster": cluster}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cluster()
    for _ in range(rounds):
        for name, way in ways.items():
            clock = Clock()
            way()
            seconds[name].append(clock.lap())
    for name, each in seconds.items():
        print(f"{name}: {', '.join(f'{value:.2f}' for value in each)} s")
    best = {name: min(each) for name, each in seconds.items()}
    floor = min(needed) / (os.cpu_count() or 1) / best["one"]
    print(
        f"three on a LAN need {min(needed):.2f} s of CPU time: on these CPUs, they take {floor:.2f} x of one at least"
    )
    return [
        at_most("three guests on a LAN against one without", best["cluster"] / best["one"], _AGAINST_ONE, "x"),
        at_most("three guests on a LAN against three without", best["cluster"] / best["three"], _AGAINST_THREE, "x"),
        at_most("our own CPU for each guest: plugin, guardian, switch", min(own), _OWN_CPU_SECONDS, "s", 3),
    ]


def _children_cpu(fleet: Fleet) -> float:
    """The CPU seconds that the hypervisors and switches have used so far."""
    guardian, _ = fleet._run.get()
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process(guardian.pid).children())


if __name__ == "__main__":
    sys.exit(main())
