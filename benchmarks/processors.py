"""Guests of aarch64 next to those of x86-64, both emulated: cold boots, restored guests, and the build of tiny.

Run it as ``python -m benchmarks.processors``. What is compared is run in turn, and medians are compared. With
``--builds``, tiny is built for both, which takes minutes. Ends with status 1 when a promise is not kept.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

from benchmarks.measure import Clock
from benchmarks.promise import Promise, show
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import StartMode

# How many times as long as x86-64 may aarch64 take.
_COLD = {"tiny": 1.3, "debian12": 2.0}
_WARM = 2.5
_BUILD = 2.0
_UP_TO_THE_BANNER = ("start", "boot", "banner")
_NAMES = ("x86_64", "aarch64")


def main() -> int:
    """Measure, print, and tell whether all promises are kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="guests of each kind (default: 5)")
    parser.add_argument("--image", action="append", choices=tuple(_COLD), help="an image (default: tiny)")
    parser.add_argument("--builds", action="store_true", help="build tiny for both, too")
    options = parser.parse_args()
    # So that a benchmark that is ended takes its guests with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    home = Home.of_user()
    promises: list[Promise] = []
    for image in options.image or ("tiny",):
        promises += _measure_guests(image, home, options.rounds)
    if options.builds:
        promises.append(_measure_builds(home))
    print(f"aarch64 against x86-64, medians of {options.rounds}, in turn\n{show(promises)}")
    return 0 if all(promise.is_met for promise in promises) else 1


def _measure_guests(image: str, home: Home, rounds: int) -> list[Promise]:
    cold: dict[str, list[float]] = {name: [] for name in _NAMES}
    warm: dict[str, list[float]] = {name: [] for name in _NAMES}
    with ExitStack() as stack:
        fleets = {name: stack.enter_context(closing(_fleet(f"{image}-{name}", home))) for name in _NAMES}
        for fleet in fleets.values():
            # The image and its template.
            fleet.start(ForegroundRequest(GuestSpec(start="warm"))).remove()
        for _ in range(rounds):
            for name, fleet in fleets.items():
                with fleet.start(ForegroundRequest(GuestSpec(start="cold"))) as guest:
                    cold[name].append(sum(guest.phases.get(phase, 0.0) for phase in _UP_TO_THE_BANNER))
                warm[name].append(_seconds_to_the_first_output(fleet, "warm"))
    return [
        _times_as_long(f"{image}: cold, up to the SSH banner", cold, _COLD[image]),
        _times_as_long(f"{image}: restored, up to the first output", warm, _WARM),
    ]


def _seconds_to_the_first_output(fleet: Fleet, start: StartMode) -> float:
    clock = Clock()
    with fleet.start(ForegroundRequest(GuestSpec(start=start))) as guest:
        guest.run("true")
        return clock.lap()


def _measure_builds(home: Home) -> Promise:
    seconds: dict[str, list[float]] = {}
    for name in _NAMES:
        with tempfile.TemporaryDirectory(prefix="processors-", dir=home.path) as folder:
            clock = Clock()
            build_image(f"tiny-{name}", Home(Path(folder)), print)
            seconds[name] = [clock.lap()]
    return _times_as_long("building tiny", seconds, _BUILD)


def _fleet(image: str, home: Home) -> Fleet:
    # Emulated both, on a host that could accelerate one of them.
    return Fleet(Settings(images=(image,), hypervisor="qemu", accel="tcg"), home)


def _times_as_long(what: str, seconds: Mapping[str, Sequence[float]], limit: float) -> Promise:
    base, other = (median(seconds[name]) for name in _NAMES)
    return Promise(
        what, f"{other / base:.2f} x ({other:.2f} s, {base:.2f} s)", f"at most {limit:g} x", other <= limit * base
    )


if __name__ == "__main__":
    sys.exit(main())
