"""Which bundles of failed tests go first, and where none can be saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import FAILURES_LIMIT, parse_failures_limit
from pytest_xhyve.report.failures import _Bundle, rank


def bundle(name: str, run: str, error: str, time: float) -> _Bundle:
    return _Bundle(Path(name), 1, run, error, time)


def test_least_useful_come_first() -> None:
    bundles = [
        bundle("old", "run 1", "a", 1),
        bundle("older", "run 0", "b", 0),
        bundle("first", "run 2", "a", 2),
        bundle("same", "run 2", "a", 3),
        bundle("other", "run 2", "b", 4),
        bundle("same again", "run 2", "a", 5),
    ]
    assert [str(each.path) for each in rank(bundles)] == ["older", "old", "same again", "same", "other", "first"]
    assert rank([]) == []


@pytest.mark.parametrize(
    ("text", "limit"),
    [("5", (5, FAILURES_LIMIT.size)), ("5,1G", (5, 1 << 30)), (" 20 , 512M", (20, 512 << 20))],
)
def test_limit_has_a_number_and_a_size(text: str, limit: tuple[int, int]) -> None:
    assert parse_failures_limit(text) == limit


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "5,", "5,x", "5,1G,2"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_failures_limit(text)
