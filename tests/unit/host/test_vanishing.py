"""Look for files in a folder from which another process removes them all the time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from waiting import becomes

from pytest_xhyve.host.guest_folder import RECORD
from pytest_xhyve.host.runs import kept_lans, live_guests
from pytest_xhyve.host.vanishing import changed_at, find_existing, read_at, size_of

# Pathlib of Python 3.11 raises within 50 ms.
SECONDS = 0.5
COMES_AND_GOES = dedent(
    """
    import shutil, sys
    from itertools import count
    from pathlib import Path

    for number in count():
        run = Path(sys.argv[1]) / f"1-{number}"
        (run / "guest").mkdir(parents=True)
        shutil.rmtree(run)
    """
)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder in which runs begin and end."""
    stays = tmp_path / "stays" / "guest"
    stays.mkdir(parents=True)
    (stays / RECORD).write_text('{"lan": "a", "kept": true}')
    with subprocess.Popen([sys.executable, "-S", "-c", COMES_AND_GOES, str(tmp_path)]) as process:
        try:
            assert becomes(lambda: any(tmp_path.glob("1-*")), 10)
            yield tmp_path
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("look", "found"),
    [
        (lambda folder: find_existing(folder, f"*/*/{RECORD}"), 1),
        (lambda folder: kept_lans(folder, "*"), 1),
        (live_guests, 0),
    ],
    ids=["find_existing", "kept_lans", "live_guests"],
)
def test_what_goes_during_the_search_is_left_out(busy: Path, look: Callable[[Path], list[object]], found: int) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert len(look(busy)) == found


def test_hidden_names_and_nested_ones_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b/x", ".a/x", "c/y", "[d]/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_existing(tmp_path, "*/x") == [tmp_path / name for name in (".a/x", "[d]/x", "b/x")]
    assert find_existing(tmp_path, "[!.]*/x") == [tmp_path / name for name in ("[d]/x", "b/x")]
    assert find_existing(tmp_path / "[d]", "*") == [tmp_path / "[d]" / "x"]
    assert find_existing(tmp_path / "missing", "*") == []


def test_what_is_gone_is_old_and_empty(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert [look(file) for look in (size_of, changed_at, read_at)] == [0, 0, 0]
    file.write_text("abc")
    assert size_of(file) == 3
    assert (changed_at(file), read_at(file)) == (file.stat().st_mtime, file.stat().st_atime)
