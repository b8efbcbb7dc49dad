"""A series of faults: what a seed decides, and what happens if a fault cannot be injected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from random import Random
from typing import Any

import pytest
from waiting import becomes

from pytest_xhyve.guest.chaos import USUAL, Chaos, PlannedFault, plan
from pytest_xhyve.model.errors import ConfigurationError, XhyveError


def first(seed: int, count: int = 50) -> list[PlannedFault]:
    return list(islice(plan(seed, USUAL, 2.0), count))


def test_seed_decides() -> None:
    assert first(1) == first(1)
    assert first(1) != first(2)
    assert {fault.name for fault in first(1)} == set(USUAL)
    assert all(fault.seconds + fault.rest == pytest.approx(2.0) for fault in first(1))
    assert all(0.5 < fault.seconds < 1.9 for fault in first(1))


@pytest.mark.parametrize(
    ("seed", "faults", "every"),
    [
        ("1", USUAL, 1),
        (True, USUAL, 1),
        (1, [], 1),
        (1, "pause", 1),
        (1, ["slow dsk"], 1),
        (1, [None], 1),
        (1, USUAL, 0),
        (1, USUAL, float("nan")),
        (1, USUAL, float("inf")),
        (1, USUAL, "1"),
    ],
)
def test_invalid_argument(seed: Any, faults: Any, every: Any) -> None:
    with pytest.raises(ConfigurationError):
        plan(seed, faults, every)


def test_similar_name_is_suggested() -> None:
    with pytest.raises(ConfigurationError, match=r"no fault 'slow dsk'.*slow disk"):
        plan(1, ["slow dsk"], 1)


def test_series_goes_on_after_a_fault_that_cannot_be_injected() -> None:
    """As when the load restarts the guest: it is off, or its process has ended."""

    @contextmanager
    def inject(name: str, _: Random) -> Iterator[None]:
        if name == "off":
            raise XhyveError("the guest is off")
        if name == "ended":
            raise ProcessLookupError("no such process")
        yield

    series = [PlannedFault(name, 0.01, 0.01, "1") for name in ("first", "off", "ended", "last")]
    with Chaos("it", inject, iter(series)) as chaos:
        assert becomes(lambda: len(chaos.injected) == 2, 10)
    assert chaos.injected == ("first", "last")
    assert chaos.skipped == ("off: the guest is off", "ended: no such process")
