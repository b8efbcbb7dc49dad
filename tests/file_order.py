"""The order in which xdist's workers get the files of tests, and what it is made of: the times that each file took.

The longest files come first, so that all workers end at about the same time. Files that mostly wait and files that
mostly compute are mixed: workers that wait all at once leave the CPUs idle.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

TIMES = Path(__file__).with_name("seconds.json")
"""For each file the seconds that its tests took, and those of CPU among them, as tools/record-seconds wrote them."""

_CPU = "cpu"
_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files that this worker of xdist has collected; those of unknown times come first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        names = {item: item.path.relative_to(TIMES.parent).as_posix() for item in items}
        known = json.loads(TIMES.read_text())
        places = dict(order({name: known[name] for name in {*names.values()} & known.keys()}))
        items.sort(key=lambda item: places.get(names[item], -1.0))


def order(times: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, float]]:
    """Each file of *times*, with a number from 0 to 1 by which it is sorted.

    Files of each kind are spread over the whole run: one that begins when a third of the time of its kind is over has
    the number 0.33.
    """
    waiting = {name for name, took in times.items() if took.get(_CPU, 0.0) < took["seconds"] / 2}
    for kind in (waiting, times.keys() - waiting):
        longest_first = sorted(kind, key=lambda name: (-times[name]["seconds"], name))
        # All workers must collect the same order. A sum in the order of a set is rounded in another way in each.
        total, over = sum(times[name]["seconds"] for name in longest_first), 0.0
        for name in longest_first:
            yield name, over / total if total else 0.0
            over += times[name]["seconds"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[_BEGAN] = _cpu_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Add the seconds of CPU to what ``--junitxml`` writes of the test."""
    try:
        return (yield)
    finally:
        item.user_properties.append((_CPU, round(_cpu_seconds() - item.stash[_BEGAN], 3)))


def _cpu_seconds() -> float:
    """Of this process, and of those that it has waited for (times(2))."""
    return sum(os.times()[:4])
