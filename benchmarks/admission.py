"""How long processes wait for each other when they ask for guests, how fairly, and what ``kill -9`` does to that.

Run it as ``python -m benchmarks.admission``. It starts no guests. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.desk import MEMORY, SLOTS, Grant, Proof, read_grants
from benchmarks.promise import Promise, at_most, show
from pytest_xhyve.fleet.queue import Queue
from pytest_xhyve.fleet.slots import Slots
from pytest_xhyve.fleet.weight import guests_memory

_WORKERS = 8
_MEDIAN_MS, _P95_MS = 10.0, 20.0
_SHARES = 1.3
_FREED_SECONDS = 2.0


def main() -> int:
    """Measure, print, and tell whether all targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.admission", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: 3)")
    parser.add_argument("--soak", type=float, default=20.0, help="seconds with kill -9; 0: none (default: 20)")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{_WORKERS} processes, {os.cpu_count()} CPUs, load {load:.1f} at the start")
    promises = [
        *_overhead("free slots", [_plenty(options.seconds) for _ in range(options.rounds)]),
        *_scarce(options.seconds, options.rounds),
    ]
    if options.soak:
        promises += _soak(options.soak)
    print(show(promises))
    return 0 if all(promise.is_met for promise in promises) else 1


def _overhead(what: str, rounds: Sequence[Sequence[float]]) -> list[Promise]:
    """The promises about the seconds of several *rounds*, of which the best counts: others use this host, too."""
    medians = [statistics.median(waits) for waits in rounds]
    tails = [statistics.quantiles(waits, n=20)[-1] for waits in rounds]
    each = (f"{median * 1000:.1f}/{tail * 1000:.1f}" for median, tail in zip(medians, tails, strict=True))
    print(f"{what}: {', '.join(each)} ms")
    return [
        at_most(f"{what}: per guest, median", min(medians) * 1000, _MEDIAN_MS, "ms"),
        at_most(f"{what}: per guest, 95th percentile", min(tails) * 1000, _P95_MS, "ms"),
    ]


def _plenty(seconds: float) -> list[float]:
    """The seconds of each grant while there are enough slots for all."""
    with _running(seconds, limit=2 * _WORKERS, hold=(0.1, 0.3)) as folder:
        return [grant.waited for grant in read_grants(folder)]


def _scarce(seconds: float, rounds: int) -> list[Promise]:
    """Eight processes for three slots: for how long a slot is free although a process waits, and the shares."""
    idle, shares = [], []
    for _ in range(rounds):
        with _running(seconds, limit=3, hold=(0.1, 0.2)) as folder:
            grants = read_grants(folder)
        idle.append(list(_idle_times(grants)))
        counts = Counter(grant.worker for grant in grants)
        shares.append(max(counts.values()) / min(counts[worker] for worker in range(_WORKERS)))
        print(
            f"grants of the processes: {sorted(counts.values())}, longest wait "
            f"{max(grant.waited for grant in grants):.2f} s"
        )
    return [*_overhead("slots that others wait for", idle), at_most("most grants to least", max(shares), _SHARES, "x")]


def _idle_times(grants: Sequence[Grant]) -> Iterator[float]:
    """How long each slot was free before a grant although its process waited."""
    freed: dict[int, float] = {}
    for grant in grants:
        for slot in grant.slots:
            if slot in freed:
                yield grant.got - max(freed[slot], grant.asked)
            freed[slot] = grant.gave


def _soak(seconds: float) -> list[Promise]:
    """Processes that take one to three guests of 1 or 4 GiB, ten of which are killed in a second, and replaced."""
    limit, most_memory, kills, taken_twice = 10, 0, 0, 0
    chance = random.Random(0)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "start").touch()
        numbers = iter(range(10**6))

        def start() -> subprocess.Popen[bytes]:
            process = _start(folder, next(numbers), limit, 3600, (0.01, 0.2), 3)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        workers = [start() for _ in range(_WORKERS)]
        proof = Proof(folder / "proof", limit)
        (folder / SLOTS).mkdir(exist_ok=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            with Queue(folder / SLOTS / "queue").locked():
                most_memory = max(most_memory, proof.memory())
            place = chance.randrange(_WORKERS)
            workers[place].kill()
            # A process that took a slot of another one has ended with an error.
            taken_twice += workers[place].wait() > 0
            kills += 1
            workers[place] = start()
        for worker in workers:
            worker.kill()
            taken_twice += worker.wait() > 0
        killed = time.monotonic()
        slots = Slots(folder / SLOTS, limit, guests_memory(MEMORY))
        while slots.held() and time.monotonic() - killed < 10:
            time.sleep(0.001)
        freed = time.monotonic() - killed
        with Queue(folder / SLOTS / "queue").locked():
            waiting = len(Queue(folder / SLOTS / "queue").waiting())
        grants = len(read_grants(folder))
    print(f"soak: {kills} processes killed, {grants} grants, at most {most_memory >> 30} GiB taken")
    return [
        at_most("soak: slots given twice", taken_twice, 0, "", 0),
        at_most("soak: memory", most_memory / (1 << 30), guests_memory(MEMORY) / (1 << 30), "GiB", 0),
        at_most("soak: all free after the last kill -9", freed, _FREED_SECONDS, "s"),
        at_most("soak: tickets left", waiting, 0, "", 0),
    ]


@contextmanager
def _running(seconds: float, *, limit: int, hold: tuple[float, float]) -> Iterator[Path]:
    """The folder in which the processes have worked; they begin together."""
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as name:
        folder = Path(name)
        with ExitStack() as stack:
            workers = [_start(folder, number, limit, seconds, hold, 1) for number in range(_WORKERS)]
            for worker in workers:
                stack.callback(worker.kill)
            while len(list(folder.glob("*.ready"))) < _WORKERS:
                time.sleep(0.01)
            (folder / "start").touch()
            for worker in workers:
                assert worker.wait() == 0
        yield folder


def _start(
    folder: Path, worker: int, limit: int, seconds: float, hold: tuple[float, float], most: int
) -> subprocess.Popen[bytes]:
    numbers = map(str, (worker, limit, seconds, *hold, most))
    return subprocess.Popen([sys.executable, "-m", "benchmarks.desk", folder, *numbers])


if __name__ == "__main__":
    sys.exit(main())
