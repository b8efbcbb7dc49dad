"""A suite whose tests run in two workers at once, by `-n 2` in pytest.ini.

To copy: `xhyve_run_guest` with its hook for what is slow to set up, `worker_id` for what each worker has for itself.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_xhyve import Guest

Redis = Callable[..., str]


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_counter(redis: Redis, step: int) -> None:
    """Another worker has a counter of the same name."""
    assert [redis("incrby", "counter", str(step)) for _ in range(3)] == [str(step), str(2 * step), str(3 * step)]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_sort(redis: Redis, order: str) -> None:
    redis("rpush", "numbers", "3", "1", "2")
    assert redis("sort", "numbers", order).split() == sorted("312", reverse=order == "desc")


def test_set_up_ran_once(xhyve_run_guest: Guest) -> None:
    assert xhyve_run_guest.run("redis-cli -n 15 get set-ups").stdout == "1\n"


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "not-saved"])
def test_power_cut(xhyve_guest: Guest, *, saved: bool) -> None:
    """What harms the server gets a server of its own."""
    xhyve_guest.wait_for("redis-cli ping")
    xhyve_guest.run("redis-cli set fruit apple")
    if saved:
        xhyve_guest.run("redis-cli save")
    xhyve_guest.kill()
    xhyve_guest.start()
    xhyve_guest.wait_for("redis-cli ping")
    assert xhyve_guest.run("redis-cli get fruit").stdout == ("apple\n" if saved else "\n")
