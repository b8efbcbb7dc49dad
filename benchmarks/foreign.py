"""A disk from elsewhere: looking into it, preparing it, and its guests, next to those of the catalog.

Run it as ``python -m benchmarks.foreign DISK``. The disk is prepared in a cache folder of its own, which is removed
at the end. What is compared is run in turn. Ends with status 1 when a promise is not kept.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks import product
from benchmarks.measure import Clock, Summary
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.image import Image
from pytest_xhyve.preparation.examine import examine

_MIB = 1 << 20
_CATALOG = "debian12"


def main() -> int:
    """Measure, print, and tell whether all promises are kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foreign", description=__doc__.splitlines()[0])
    parser.add_argument("disk", type=Path, help="a disk with a Linux and an SSH server")
    parser.add_argument("--rounds", type=int, default=5, help="restored guests of each kind (default: 5)")
    parser.add_argument("--cpus", type=int, help="of each restored guest (default: what its image states)")
    options = parser.parse_args()
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    disk = options.disk.absolute()
    with product.new_home("tiny", _CATALOG) as home:
        promises = _measure(disk, home, options.rounds, options.cpus)
    print(f"{disk}: medians of {options.rounds} restored guests; the rest once, in turn\n{show(promises)}")
    return 0 if all(promise.is_met for promise in promises) else 1


def _measure(disk: Path, home: Home, rounds: int, cpus: int | None) -> list[Promise]:
    with product.fleet_in(home, "cold") as fleet:
        clock = Clock()
        product.start_ready(fleet, "tiny").remove()
        tiny = clock.lap()
        examine(disk, fleet.run_context())
        looking = clock.lap()
        image = fleet.catalog.find(disk)
        preparing = clock.lap()
        guest = product.start_ready(fleet, str(disk))
        cold = clock.lap()
        guest.shutdown()
        booting = cold + clock.lap()
        guest.remove()
    known = _seconds_of_a_prepared_disk(disk, home, image)
    warm: dict[str, list[float]] = {str(disk): [], _CATALOG: []}
    with product.fleet_in(home, "warm") as fleet:
        for name in warm:
            # The template.
            product.start_ready(fleet, name, cpus=cpus).remove()
        for _ in range(rounds):
            for name, seconds in warm.items():
                clock = Clock()
                guest = product.start_ready(fleet, name, cpus=cpus)
                seconds.append(clock.lap())
                guest.remove()
    own, catalog = (Summary.of(seconds).median for seconds in warm.values())
    layer = image.disk.stat().st_blocks * 512 / _MIB
    return [
        at_most(f"looking into it, over a boot of tiny ({tiny:.1f} s)", looking - tiny, 3, "s", 1),
        at_most(
            f"preparing ({preparing:.1f} s), against a boot and shutdown ({booting:.1f} s)",
            preparing / booting,
            1.3,
            "x",
        ),
        at_most(f"restored ({own:.2f} s), against {_CATALOG} ({catalog:.2f} s)", own / catalog, 2, "x"),
        at_most(f"restored, against its own boot ({cold:.1f} s)", own / cold, 1 / 20, "x", 3),
        at_most("prepared: added to a run's start", known * 1000, 50, "ms", 1),
        at_most("the layer beside the disk", layer, 200, "MiB", 0),
    ]


def _seconds_of_a_prepared_disk(disk: Path, home: Home, image: Image) -> float:
    taken = []
    for _ in range(10):
        with product.fleet_in(home, "cold") as fleet:
            begin = time.perf_counter()
            assert fleet.catalog.find(disk) == image
            taken.append(time.perf_counter() - begin)
    return Summary.of(taken).median


if __name__ == "__main__":
    sys.exit(main())
