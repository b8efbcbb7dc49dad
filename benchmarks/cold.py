"""Cold boots of the plugin, of the floor and of labgrid, and what it costs to have the plugin installed.

Run it as ``python -m benchmarks.cold``. All that is compared is run in turn, and medians are compared: other work on
the host then slows all of it. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks import floor, peer, product, startup, targets
from benchmarks.measure import Boot, Summary
from benchmarks.table import Row, render, show
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image

_PLUGIN, _FLOOR, _PEER = "plugin", "floor", "labgrid"
_STARTUP_ROUNDS = 40
# What makes the machine; the rest of the command line is names and places.
_MACHINE_OPTIONS = ("-machine", "-accel", "-cpu", "-smp", "-m", "-kernel", "-initrd", "-device")


@dataclass(frozen=True, slots=True)
class Boots:
    """All boots of one image, by who did them."""

    image: str
    by: Mapping[str, Sequence[Boot]]

    def rows(self) -> list[Row]:
        """Request to output, with its parts, and teardown."""
        ready = {who: Summary.of(boot.ready for boot in boots) for who, boots in self.by.items()}
        least = ready[_FLOOR].median
        rows = [Row(f"{self.image}: request to first output")]
        for who, summary in ready.items():
            note = f"{summary.median / least:.3f} x floor, {summary.median - least:+.3f} s" if who != _FLOOR else ""
            rows.append(Row(f"  {who}", summary, note))
        boots = self.by[_PLUGIN]
        rows.append(Row(f"{self.image}: the plugin's time, by its phases"))
        rows += [Row(f"  {name}", Summary.of(boot.phases[name] for boot in boots)) for name in boots[0].phases]
        rows.append(Row(f"{self.image}: its phase boot, by the kernel's stamps on the console"))
        told = [name for name in boots[0].inside if all(name in boot.inside for boot in boots)]
        rows += [Row(f"  {name}", Summary.of(boot.inside[name] for boot in boots)) for name in told]
        rest = Summary.of(boot.phases["boot"] - sum(boot.inside[name] for name in told) for boot in boots)
        rows.append(Row("  all else", rest, "firmware and unpacking before, what has no stamp after"))
        rows.append(Row(f"{self.image}: teardown"))
        rows += [Row(f"  {who}", Summary.of(boot.teardown for boot in boots)) for who, boots in self.by.items()]
        return rows


def main() -> int:
    """Measure, print, and tell whether all targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="boots of each kind (default: 5)")
    parser.add_argument("--image", action="append", help="an image of the catalog (default: tiny and debian12)")
    parser.add_argument("--accel", default="auto", help="QEMU's acceleration (default: auto)")
    options = parser.parse_args()
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    accel = product.find_acceleration(options.accel)
    images = [build_image(name, Home.of_user(), print) for name in options.image or ("tiny", "debian12")]
    for image in images:
        _check_same_machine(image, accel)
    print(f"acceleration: {accel}; {options.rounds} rounds of boots, {_STARTUP_ROUNDS} of pytest\n{_way()}\n")
    boots = [_measure_boots(image, accel, options.rounds) for image in images]
    costs = startup.measure(_STARTUP_ROUNDS)
    modules = startup.imported_modules()

    print(render([row for some in boots for row in some.rows()] + _startup_rows(costs)))
    print(f"\nof {', '.join(startup.HEAVY)}, imported at the end of a run without guests:")
    for way, names in modules.items():
        print(f"  {way}: {', '.join(names) or 'none'}")
    promises = [target for some in boots for target in targets.of_boots(some.image, some.by[_PLUGIN], some.by[_FLOOR])]
    promises += targets.of_startup(costs)
    print("\ntargets:")
    for promise in promises:
        print(f"  {promise}")
    light = targets.stays_light(modules)
    print(f"  {'pass' if light else 'FAIL'}  the plugin imports none of these modules")
    return 0 if light and all(promise.is_met for promise in promises) else 1


def _measure_boots(image: Image, accel: str, rounds: int) -> Boots:
    ways: dict[str, Callable[[Image, str], Boot]] = {_PLUGIN: product.boot, _FLOOR: floor.boot}
    if peer.is_installed():
        ways[_PEER] = peer.boot
    taken: dict[str, list[Boot]] = {who: [] for who in ways}
    for turn in range(rounds):
        for who, way in ways.items():
            taken[who].append(way(image, accel))
        last = ", ".join(f"{who} {show(boots[-1].ready)}" for who, boots in taken.items())
        print(f"{image.name}, round {turn + 1}: {last}", file=sys.stderr)
    return Boots(image.name, taken)


def _startup_rows(costs: Sequence[startup.Cost]) -> list[Row]:
    rows = []
    for cost in costs:
        rows.append(Row(f"{cost.command}: {cost.pair}"))
        rows.append(Row("  with the plugin", Summary.of(run.wall for run in cost.present)))
        rows.append(Row("  without it", Summary.of(run.wall for run in cost.absent)))
        rows.append(Row("  difference", Summary.of(run.wall for run in cost.differences), "of neighbours in time"))
        rows.append(Row("  difference in CPU time", Summary.of(run.cpu for run in cost.differences), "likewise"))
    return rows


def _way() -> str:
    return peer.WAY if peer.is_installed() else "labgrid is not installed: pip install '.[bench]'"


def _check_same_machine(image: Image, accel: str) -> None:
    """Boot the plugin's guest once, and raise when the floor's machine is another one."""
    seen: list[list[str]] = []

    def look(guest: Guest) -> None:
        seen.append(machine_of(product.qemu_arguments(guest)))

    product.boot(image, accel, look)
    ours = machine_of(floor.arguments(image, accel, Path("disk"), Path()))
    if seen != [ours]:
        raise SystemExit(f"the floor's machine is not the plugin's:\n  {' '.join(ours)}\n  {' '.join(seen[0])}")


def machine_of(argv: Sequence[str]) -> list[str]:
    """The options that make the machine, without Ethernet addresses, which are each guest's own."""
    pairs = [(option, value) for option, value in pairwise(argv) if option in _MACHINE_OPTIONS]
    parts = [(option, [part for part in value.split(",") if not part.startswith("mac=")]) for option, value in pairs]
    return sorted(f"{option} {','.join(part)}" for option, part in parts)


if __name__ == "__main__":
    sys.exit(main())
