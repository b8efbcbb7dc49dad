"""What guests see of their LAN: the switch against a cable between two guests, and faults against what they promise.

Run it as ``python -m benchmarks.network``. What is compared runs in turn, so that both find the host equally busy. Ends
with status 1 when a target is missed.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from benchmarks import product
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_least, at_most, show
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.guest.guests import Guests
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.qemu.devices import LAN_FD
from pytest_xhyve.model.cluster import ClusterSpec

_ROUNDS = 5
_PINGS = 100
_LARGE_MIB = 24
_LATENCY_PINGS = 20
_LOSS_PINGS = 300
_SLOW_KIB = 256
_PORT = 5001


def main() -> int:
    """Measure, print, and return whether all targets are met, as an exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with product.fleet_of("auto", "warm", 4) as fleet, _pair(fleet) as switched:
        with _one_cable(), _pair(fleet) as joined:
            promises = _against_a_cable(switched, joined)
        promises += _faults(switched)
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


@contextmanager
def _pair(fleet: Fleet) -> Iterator[Guests]:
    with start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny"), "benchmark") as guests:
        guests.a.run("ping -c 1 -W 20 b")
        yield guests


@contextmanager
def _one_cable() -> Iterator[None]:
    """Plug the first LAN cards of the next two guests into each other, in the place of a switch."""
    ends = list(socket.socketpair())
    start = GuardedProcess.start

    def start_joined(
        process: GuardedProcess, argv: Sequence[str], record: Mapping[str, Any], fds: Mapping[int, int], **options: Any
    ) -> None:
        if LAN_FD not in fds or not ends:
            start(process, argv, record, fds, **options)
            return
        with ends.pop() as end:
            start(process, argv, record, {**fds, LAN_FD: end.fileno()}, **options)

    with mock.patch.object(GuardedProcess, "start", start_joined):
        yield


def _against_a_cable(switched: Guests, joined: Guests) -> list[Promise]:
    times: dict[Guests, list[float]] = {switched: [], joined: []}
    speeds: dict[Guests, list[float]] = {switched: [], joined: []}
    for _ in range(_ROUNDS):
        for guests in (switched, joined):
            times[guests] += _ping(guests, _PINGS)
            speeds[guests].append(_LARGE_MIB / _send(guests, _LARGE_MIB << 10))
    ping, bare_ping = (Summary.of(times[guests]).median for guests in (switched, joined))
    speed, bare_speed = (Summary.of(speeds[guests]).median for guests in (switched, joined))
    print(f"ping {ping:.2f} ms, bare {bare_ping:.2f} ms; TCP {speed:.1f} MiB/s, bare {bare_speed:.1f} MiB/s")
    return [
        at_most("ping over the switch against a bare socket pair", ping / bare_ping, 1.2, "x"),
        at_least("TCP over the switch against a bare socket pair", speed / bare_speed, 0.9, "x"),
    ]


def _faults(guests: Guests) -> list[Promise]:
    plain = Summary.of(_ping(guests, _LATENCY_PINGS)).median
    guests.link("a", "b", latency="100ms", one_way=True)
    late = Summary.of(_ping(guests, _LATENCY_PINGS)).median
    guests.link("a", "b", loss="30%", one_way=True, seed=1)
    lost = 100 * (1 - len(_ping(guests, _LOSS_PINGS)) / _LOSS_PINGS)
    guests.link("a", "b", rate="1mbit", one_way=True)
    rate = _SLOW_KIB * 1024 * 8 / _send(guests, _SLOW_KIB) / 1e6
    guests.heal()
    print(f"ping {plain:.1f} ms, with 100 ms one way {late:.1f} ms; {lost:.1f} % lost; {rate:.2f} Mbit/s")
    return [
        at_least("100 ms one way, as ping sees it", late, 100, "ms", 1),
        at_most("100 ms one way, as ping sees it", late, 115, "ms", 1),
        at_most("30 % loss over 300: off by", abs(lost - 30), 10, "points", 1),
        at_most("1 Mbit/s, as TCP sees it: off by", abs(rate - 1) * 100, 25, "%", 0),
    ]


def _ping(guests: Guests, count: int) -> list[float]:
    """The round-trip times from a to b, in milliseconds; those of the pings that came back."""
    done = guests.a.run(f"ping -c {count} -i 0.02 -W 1 b", check=False, timeout=120)
    return [float(time) for time in re.findall(r"time=([0-9.]+)", done.stdout)]


def _send(guests: Guests, kib: int) -> float:
    """The seconds that *kib* KiB take from a to b over TCP."""
    guests.a.run(f"nc -l -p {_PORT} -e dd if=/dev/zero bs=1k count={kib} > /dev/null 2>&1 < /dev/null &")
    guests.a.wait_for_port(_PORT)
    clock = Clock()
    received = guests.b.run(f"nc a {_PORT} < /dev/null | wc -c", timeout=120)
    seconds = clock.lap()
    assert int(received.stdout) == kib << 10
    return seconds


if __name__ == "__main__":
    sys.exit(main())
