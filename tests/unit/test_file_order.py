"""The order in which xdist's workers get the files of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import file_order
from file_order import order

MANY = "from file_order import order; print(*order({f'file {n}': {'seconds': n / 10} for n in range(100)}))"


def test_longest_first_and_each_kind_until_the_end() -> None:
    times = {
        "waits 4": {"seconds": 4.0, "cpu": 0.1},
        "waits 2": {"seconds": 2.0},
        "waits 1": {"seconds": 1.0, "cpu": 0.4},
        "computes 6": {"seconds": 6.0, "cpu": 6.0},
        "computes 3": {"seconds": 3.0, "cpu": 1.5},
        "computes 0": {"seconds": 0.0, "cpu": 0.0},
    }
    places = dict(order(times))
    assert sorted(places, key=lambda name: (places[name], name)) == [
        "computes 6",
        "waits 4",
        "waits 2",
        "computes 3",
        "waits 1",
        "computes 0",
    ]


def test_no_times_are_no_error() -> None:
    assert dict(order({})) == {}
    assert dict(order({"a": {"seconds": 0.0}})) == {"a": 0.0}


def test_all_workers_have_the_same() -> None:
    """Each worker of xdist has its own seed for hashes, and with it its own order of sets."""
    printed = set()
    for seed in ("1", "2", "3", "4"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(file_order.__file__).parent)}
        done = subprocess.run([sys.executable, "-c", MANY], env=environment, check=True, capture_output=True, text=True)
        printed.add(done.stdout)
    assert len(printed) == 1
