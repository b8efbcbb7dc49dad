"""What the plugin itself takes: its CPU for a warm guest, and its time for each test that has no guest.

Run it as ``python -m benchmarks.own``. The host's other work changes CPU time little. Ends with status 1 when a target
is missed.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import signal
import statistics
import sys

from benchmarks import product, startup
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image

_GUESTS = 12
_GUEST_MS = 100.0
_TESTS = 5000
_TEST_MS = 0.1


def main() -> int:
    """Measure, print, and return whether all targets are met, as an exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of the suite without guests (default: 3)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start")
    image = build_image("tiny", Home.of_user(), print)
    promises = [_warm_guests(image, profiled=profiled) for profiled in (False, True)]
    per_test = startup.measure_many(_TESTS, options.rounds) * 1000
    promises.append(at_most(f"a test without a guest, of {_TESTS}", per_test, _TEST_MS, "ms", 3))
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _warm_guests(image: Image, *, profiled: bool) -> Promise:
    """The CPU of this process and of its guardian for a guest: start, one command, and removal."""
    used = []
    with product.fleet_of("auto", "warm") as fleet:
        # What a run finds out once is found out by these.
        for _ in range(2):
            product.boot_in(fleet, image)
        profile = cProfile.Profile()
        for _ in range(_GUESTS):
            before = product.own_cpu(fleet)
            if profiled:
                profile.enable()
            product.boot_in(fleet, image)
            profile.disable()
            used.append((product.own_cpu(fleet) - before) * 1000)
    how = ", under the profiler" if profiled else ""
    print(f"own CPU of a warm guest{how}: {', '.join(f'{each:.0f}' for each in used)} ms")
    return at_most(f"own CPU of a warm guest{how}, median of {_GUESTS}", statistics.median(used), _GUEST_MS, "ms", 0)


if __name__ == "__main__":
    sys.exit(main())
