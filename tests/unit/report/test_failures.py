"""Which bundles of failed tests go first, and where none can be saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.values import FAILURES_LIMIT, FailuresLimit, parse_failures_limit
from pytest_xhyve.report import failures
from pytest_xhyve.report.failures import FailuresFolder, _Bundle, rank


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


def failure(test: str, time: float, run: str = "run") -> Failure:
    return Failure(test=test, when="call", error=test, traceback="", time=time, run=run, commands=(), versions={})


def test_bundle_is_saved_while_another_run_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_LOCK_SECONDS", 0.05)
    folder = FailuresFolder(tmp_path / "saved", FailuresLimit(1, 1 << 30), tmp_path / "checked")
    assert folder.save(failure("test_first", 1), ()) is not None
    with FileLock(tmp_path / "saved" / ".lock"):
        second = folder.save(failure("test_second", 2, run="later"), ())
    assert second is not None
    assert Path(second.path).exists()
    assert len(list((tmp_path / "saved").glob("*.xhyve"))) == 2
    # The next one makes room for all.
    folder.save(failure("test_third", 3, run="latest"), ())
    assert [path.name for path in (tmp_path / "saved").glob("*.xhyve")] == ["test_third.xhyve"]
