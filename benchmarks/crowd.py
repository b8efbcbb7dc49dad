"""Many guests at once: what each takes of the host's memory, and how fast all of them are removed.

Run it as ``python -m benchmarks.crowd``. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from benchmarks import product
from benchmarks.many import memory_of
from benchmarks.measure import Clock
from benchmarks.promise import at_most, show
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.model.settings import MAX_GUESTS
from pytest_xhyve.model.spec import GuestSpec

_MIB_EACH = 70.0
_REMOVAL_SECONDS = 3.0


def main() -> int:
    """Measure, print, and tell whether all targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__.splitlines()[0])
    parser.add_argument("--guests", type=int, default=32, help="number of guests (default: 32)")
    parser.add_argument("--image", default="tiny", help="their image (default: tiny)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{options.guests} guests, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    with product.fleet_of("auto", "warm", MAX_GUESTS) as fleet, ThreadPoolExecutor(8) as threads:

        def start(_: int) -> Guest:
            return fleet.start(ForegroundRequest(GuestSpec(image=options.image)))

        def answers(guest: Guest) -> bool:
            return guest.run("echo ready").stdout == "ready\n"

        clock = Clock()
        guests = list(threads.map(start, range(options.guests)))
        started = clock.lap()
        assert all(threads.map(answers, guests))
        answered = clock.lap()
        memory = [memory_of(product.hypervisor_of(guest)) / (1 << 20) for guest in guests]
        clock.lap()
        fleet.close()
        removal = clock.lap()
    print(f"started in {started:.1f} s, all answered in {answered:.1f} s")
    promises = [
        at_most("memory of each guest (PSS), mean", sum(memory) / len(memory), _MIB_EACH, "MiB", 0),
        at_most("removal of all guests", removal, _REMOVAL_SECONDS, "s"),
    ]
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
