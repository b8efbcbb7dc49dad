"""Warm guests of the plugin, of a script that restores the same template, and of the peers, which boot.

Run it as ``python -m benchmarks.warm``. All that is compared is run in turn, and medians are compared: other work on
the host then slows all of it. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import many, peer, product, restored, suite
from benchmarks.cold import machine_of
from benchmarks.measure import Boot, Clock, Summary
from benchmarks.promise import Promise, at_most, faster, show
from benchmarks.table import Row, render
from benchmarks.table import show as show_seconds
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.spec import GuestSpec

_FIRST, _NEXT, _FLOOR, _COLD, _PEER = "warm, first of a run", "warm, each further", "script", "cold", "labgrid"
_OVER_FLOOR = 1.15
_READY_SECONDS = {"tiny": 1.1, "debian12": 1.8}
_FASTER_THAN_COLD = {"tiny": 5.0, "debian12": 8.0}
_FASTER_THAN_PEER = 15.0
_PREWARMED_SECONDS = 0.3
_PREWARM_SECONDS = 4.0
_FASTER_SUITE = 7.0
_SHARE_OF_COLD_MEMORY = 30.0
_DISK_MIB = 1.0
_BESIDE = 4
_AT_ONCE = 8


def main() -> int:
    """Measure, print, and tell whether all targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="guests of each kind (default: 5)")
    parser.add_argument("--suite-tests", type=int, default=50, help="tests in the suite; 0: none (default: 50)")
    parser.add_argument("--accel", default="auto", help="QEMU's acceleration (default: auto)")
    options = parser.parse_args()
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    accel = product.find_acceleration(options.accel)
    print(f"acceleration: {accel}; {options.rounds} rounds")
    print(peer.WAY if peer.is_installed() else "labgrid is not installed: pip install '.[bench]'")
    promises: list[Promise] = []
    rows: list[Row] = []
    for name in ("tiny", "debian12"):
        image = build_image(name, Home.of_user(), print)
        saved = _find_template(image, accel)
        boots = _measure_boots(image, accel, saved, options.rounds)
        rows += _rows_of(name, boots)
        promises += _promises_of(name, boots)
    promises += prewarmed(accel, options.rounds)
    promises += [_memory(accel), _disk(accel), _at_once(accel, options.rounds)]
    if options.suite_tests:
        promises.append(_suite(accel, options.suite_tests))

    print("\n" + render(rows) + "\n\n" + show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _find_template(image: Image, accel: str) -> restored.Saved:
    """The template of *image*, made if there is none; raises when the script's machine is not the plugin's."""
    seen: list[list[str]] = []

    def look(guest: Guest) -> None:
        seen.append(product.qemu_arguments(guest))

    product.boot(image, accel, look, start="warm")
    memory = next(word for word in seen[0] if word.startswith("memory-backend-file")).partition("mem-path=")[2]
    folder = Path(memory.replace(",,", ","))
    saved = restored.Saved(folder.parent / "ram", folder.parent / "state", folder.parent / "disk.qcow2")
    ours = machine_of(restored.arguments(image, accel, saved, Path("disk"), Path()))
    if machine_of(seen[0]) != ours:
        raise SystemExit(
            f"the script's machine is not the plugin's:\n  {' '.join(ours)}\n  {' '.join(machine_of(seen[0]))}"
        )
    return saved


def _measure_boots(image: Image, accel: str, saved: restored.Saved, rounds: int) -> Mapping[str, Sequence[Boot]]:
    """Boots of all kinds in turn."""
    with product.fleet_of(accel, "warm") as fleet:
        # What a run finds out once is found out by this one.
        product.boot_in(fleet, image)
        ways: dict[str, Callable[[], Boot]] = {
            _FLOOR: lambda: restored.boot(image, accel, saved),
            _NEXT: lambda: product.boot_in(fleet, image),
            _FIRST: lambda: product.boot(image, accel, start="warm"),
            _COLD: lambda: product.boot(image, accel),
        }
        if image.name == "debian12" and peer.is_installed():
            ways[_PEER] = lambda: peer.boot(image, accel)
        taken: dict[str, list[Boot]] = {who: [] for who in ways}
        for turn in range(rounds):
            for who, way in ways.items():
                taken[who].append(way())
            last = ", ".join(f"{who} {show_seconds(boots[-1].ready)}" for who, boots in taken.items())
            print(f"{image.name}, round {turn + 1}: {last}", file=sys.stderr)
    return taken


def _rows_of(image: str, boots: Mapping[str, Sequence[Boot]]) -> list[Row]:
    rows = [Row(f"{image}: request to first output")]
    least = _ready(boots[_FLOOR])
    for who, taken in boots.items():
        summary = Summary.of(boot.ready for boot in taken)
        note = f"{summary.median / least:.2f} x script" if who in {_FIRST, _NEXT} else ""
        rows.append(Row(f"  {who}", summary, note))
    for who in (_NEXT, _FLOOR):
        rows.append(Row(f"{image}: {who}, by phases"))
        rows += [
            Row(f"  {name}", Summary.of(boot.phases[name] for boot in boots[who])) for name in boots[who][0].phases
        ]
    rows.append(Row(f"{image}: teardown"))
    return [*rows, *(Row(f"  {who}", Summary.of(boot.teardown for boot in taken)) for who, taken in boots.items())]


def _promises_of(image: str, boots: Mapping[str, Sequence[Boot]]) -> list[Promise]:
    ready = {who: _ready(taken) for who, taken in boots.items()}
    promises = [
        at_most(f"{image}: {who}, against the script", ready[who] / ready[_FLOOR], _OVER_FLOOR, "x")
        for who in (_NEXT, _FIRST)
    ]
    promises += [
        at_most(f"{image}: {_FIRST}", ready[_FIRST], _READY_SECONDS[image], "s"),
        faster(f"{image}: {_FIRST}, against cold", ready[_FIRST], ready[_COLD], _FASTER_THAN_COLD[image]),
    ]
    if _PEER in ready:
        what = f"{image}: {_FIRST}, against labgrid"
        promises.append(faster(what, ready[_FIRST], ready[_PEER], _FASTER_THAN_PEER))
    return promises


def _ready(boots: Sequence[Boot]) -> float:
    return statistics.median(boot.ready for boot in boots)


def prewarmed(accel: str, rounds: int) -> list[Promise]:
    """A prewarmed guest: from the request to the first command's output."""
    if importlib.util.find_spec("pytest_xhyve.plugin.prewarm") is None:
        print("guests cannot be prewarmed: no pytest_xhyve.plugin.prewarm found")
        return []
    from pytest_xhyve.fleet.prewarmer import Prewarmer

    taken = []
    spec = GuestSpec(image="debian12")
    with product.fleet_of(accel, "warm") as fleet:
        prewarmer = Prewarmer(fleet, 1)
        try:
            # The first guest of an image is never prewarmed.
            prewarmer.start_guest(spec, "benchmark").remove()
            for _ in range(rounds):
                prewarmer.expect([spec])
                time.sleep(_PREWARM_SECONDS)
                clock = Clock()
                with prewarmer.start_guest(spec, "benchmark") as guest:
                    assert guest.run("echo ready").stdout == "ready\n"
                    taken.append(clock.lap())
        finally:
            prewarmer.close()
    return [at_most("debian12: prewarmed", statistics.median(taken), _PREWARMED_SECONDS, "s")]


def _memory(accel: str) -> Promise:
    warm, cold = (many.memory_of_one_more("tiny", accel, way, _BESIDE) for way in ("warm", "cold"))
    what = f"tiny: memory of a further warm guest ({warm / 2**20:.0f} MiB), against cold ({cold / 2**20:.0f} MiB)"
    return at_most(what, warm / cold * 100, _SHARE_OF_COLD_MEMORY, "%", 0)


def _disk(accel: str) -> Promise:
    return at_most("tiny: disk of a warm guest", many.disk_of_one("tiny", accel) / 2**20, _DISK_MIB, "MiB")


def _at_once(accel: str, rounds: int) -> Promise:
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for at_once, seconds in taken.items():
            seconds.append(many.start("tiny", accel, "warm", _AT_ONCE, at_once=at_once).seconds)
    together, in_turn = statistics.median(taken[True]), statistics.median(taken[False])
    return faster(f"tiny: {_AT_ONCE} warm at once, against one after another", together, in_turn, 1)


def _suite(accel: str, tests: int) -> Promise:
    took = {}
    for start in ("warm", "cold"):
        print(f"a suite of {tests} tests, {start}", file=sys.stderr)
        took[start] = suite.run("debian12", accel, start, tests, workers=2)
    what = f"debian12: {tests} tests, a guest each, pytest -n 2, against cold"
    return faster(what, took["warm"], took["cold"], _FASTER_SUITE)


if __name__ == "__main__":
    sys.exit(main())
