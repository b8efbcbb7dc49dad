"""What faults cost: recording, a power cut, a crash state, a disk's fault, a snapshot; each against what it is held to.

Run it as ``python -m benchmarks.faults``. The two of each ratio take turns, so that both find the machine equally busy.
Ends with status 1 when a target is missed. ``python -m benchmarks.network`` measures the faults of a LAN.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import product
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec

IMAGE = "tiny"
ROUNDS = 7
CUTS = 3
STATES = 40
# As blocks of a file: each is written, and then synced.
SYNCED = "dd if=/dev/zero of=/root/synced bs=4096 count=1 conv=notrunc,fsync 2> /dev/null"
SMALL = f"for n in $(seq 100); do {SYNCED} || exit 1; done"
LARGE = "dd if=/dev/zero of=/root/large bs=1M count=32 conv=fsync 2> /dev/null"
CHECK = ["sh", "-c", 'e2fsck -fp "$0" > /dev/null; test $? -le 1', "{disk}"]


def main() -> int:
    """Measure, print one line each, and return whether all targets are met, as an exit status."""
    promises: list[Promise] = []
    with product.fleet_of("auto", "warm", 4) as fleet:

        def start(**keys: Any) -> Guest:
            return fleet.start(ForegroundRequest(GuestSpec(image=IMAGE, **keys)))

        with start() as plain, start(power_cuts=True) as recorded:
            for name, line in (("100 x (4 KiB + fsync)", SMALL), ("32 MiB sequential", LARGE)):
                ratio = _compare(partial(recorded.run, line), partial(plain.run, line), ROUNDS)
                promises.append(at_most(f"recording writes: {name}", ratio, 1.15, "x"))
            promises += _faults(plain)
        with start(power_cuts=True) as guest:
            guest.run("for n in $(seq 30); do mkdir /root/$n; date > /root/$n/file; sync; done")
            clock = Clock()
            guest.crash_states(STATES, check=CHECK, boot=False)
            promises.append(at_most("a crash state with a checker, no boot", clock.lap() / STATES, 1.5, "s"))
            promises.append(_cut(guest))
        # What a guest has in its memory takes time: as it starts, 80 MiB.
        with start() as guest:
            promises += _snapshots(guest)
        promises.append(_three(fleet))
        _disks(start)
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _compare(first: Callable[[], object], second: Callable[[], object], rounds: int) -> float:
    """How many times longer *first* takes than *second*, by their medians; they take turns."""
    times: dict[Callable[[], object], list[float]] = {first: [], second: []}
    for each in times:
        each()
    for _ in range(rounds):
        for each, seconds in times.items():
            clock = Clock()
            each()
            seconds.append(clock.lap())
    return Summary.of(times[first]).median / Summary.of(times[second]).median


def _faults(guest: Guest) -> list[Promise]:
    disk = guest.disks[0]
    begun, ended = [], []
    for _ in range(ROUNDS):
        clock = Clock()
        disk.fail(sector=0)
        begun.append(clock.lap())
        disk.heal()
        ended.append(clock.lap())
    return [
        at_most("a disk's fault begins", Summary.of(begun).median * 1e3, 20, "ms", 0),
        at_most("a disk's fault ends", Summary.of(ended).median * 1e3, 20, "ms", 0),
    ]


def _snapshots(guest: Guest) -> list[Promise]:
    taken, restored = [], []
    for _ in range(ROUNDS):
        clock = Clock()
        snapshot = guest.snapshot()
        taken.append(clock.lap())
        guest.restore(snapshot)
        restored.append(clock.lap())
        snapshot.remove()
    both = Summary.of(taken).median + Summary.of(restored).median
    parts = f"snapshot {Summary.of(taken).median:.2f} s, restore {Summary.of(restored).median:.2f} s"
    return [at_most(f"{parts}, together", both, 0.5, "s")]


def _cut(guest: Guest) -> Promise:
    """From the cut to the login, against a boot of the same disk."""

    def cut() -> None:
        guest.power_cut()
        guest.start()

    def boot() -> None:
        guest.kill()
        guest.start()

    return at_most("a cut, to the login, against a boot", _compare(cut, boot, CUTS), 1.3, "x")


def _three(fleet: Fleet) -> Promise:
    """Snapshot and restore of a cluster of three."""
    seconds = []
    with start_cluster(fleet, ClusterSpec.parse(node1=IMAGE, node2=IMAGE, node3=IMAGE), "benchmark") as guests:
        for _ in range(ROUNDS):
            clock = Clock()
            snapshots = guests.snapshot()
            guests.restore(snapshots)
            seconds.append(clock.lap())
            for snapshot in snapshots.values():
                snapshot.remove()
    return at_most("snapshot and restore of three", Summary.of(seconds).median, 1.2, "s")


def _disks(start: Callable[..., Guest]) -> None:
    """Print what an empty disk adds to a warm start, up to the first output; its template is made before."""

    def with_disks(*sizes: int) -> None:
        with start(disks=sizes) as guest:
            guest.run("true")

    ratio = _compare(partial(with_disks, 1 << 30), with_disks, ROUNDS)
    print(f"a warm start with an empty disk of 1 GiB takes {ratio:.2f} times as long as without")


if __name__ == "__main__":
    sys.exit(main())
