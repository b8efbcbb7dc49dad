"""A guest of a whole run, with real processes in the place of the hypervisor and of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from waiting import becomes, is_running

from pytest_xhyve.host.runs import end_guests_of, live_guests, reap_kept

ABOUT = {"name": "g", "image": "tiny", "image_disk": "/images/tiny", "uuid": "u", "hypervisor": "sleep"}

# A process that makes a guest which ends with the process of its second argument.
MAKER = dedent(
    """
    import json, os, sys, time
    from pathlib import Path
    from pytest_xhyve.host import runs
    from pytest_xhyve.host.guardian import Guardian

    if "old" in sys.argv:
        # As on macOS, and on Linux before 5.3.
        del os.pidfd_open
    about = json.loads(sys.argv[2]) | {"owner": os.getpid()}
    with runs.new_run(Path(sys.argv[1])) as (run, lock):
        guardian = Guardian(run, lock)
        with guardian.guard(run / "g", [], about) as process:
            program = "import time; time.sleep(600)"
            process.start([sys.executable, "-c", program, str(run / "g" / "hypervisor.pid")], {}, {})
            try:
                process.keep({"run": "run-1"}, run_process=int(sys.argv[3]))
            except ProcessLookupError:
                print("it has ended")
            if "stays" in sys.argv:
                print(flush=True)
                time.sleep(600)
        guardian.close()
    """
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            yield process
        finally:
            process.kill()


def make(folder: Path, run: int, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", MAKER, str(folder), json.dumps(ABOUT), str(run), *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def is_clean(folder: Path) -> bool:
    return not list(folder.iterdir())


@pytest.mark.parametrize("words", [[], ["old"]], ids=["pidfd", "old"])
def test_ends_with_the_process_of_the_run(folder: Path, words: list[str]) -> None:
    with sleeping() as run:
        with make(folder, run.pid, *words) as maker:
            assert maker.communicate(timeout=30)[0] == ""
        (guest,) = live_guests(folder)
        assert guest.run == "run-1"
        assert guest.kept is None
        # It is no guest that a person keeps.
        assert reap_kept(folder) == []
        assert is_running(guest.pid)
        run.kill()
        run.wait(10)
        assert becomes(lambda: not is_running(guest.pid) and is_clean(folder), 5)


@pytest.mark.parametrize("words", [["stays"], ["stays", "old"]], ids=["pidfd", "old"])
def test_its_maker_may_still_be_there(folder: Path, words: list[str]) -> None:
    with sleeping() as run, make(folder, run.pid, *words) as maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        (guest,) = live_guests(folder)
        run.kill()
        run.wait(10)
        assert becomes(lambda: not is_running(guest.pid) and not guest.folder.exists(), 5)
        maker.kill()
    assert becomes(lambda: is_clean(folder), 5)


def test_its_maker_is_killed(folder: Path) -> None:
    with sleeping() as run:
        with make(folder, run.pid, "stays") as maker:
            assert maker.stdout is not None
            maker.stdout.readline()
            maker.kill()
        (guest,) = live_guests(folder)
        # The end of the run, as its controller does it.
        end_guests_of(folder, "another")
        assert is_running(guest.pid)
        end_guests_of(folder, "run-1")
        assert not guest.folder.exists()
        assert becomes(lambda: is_clean(folder), 5)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system reports no ends of processes")
def test_run_has_ended_already(folder: Path) -> None:
    with sleeping() as run:
        pass
    with make(folder, run.pid) as maker:
        assert maker.communicate(timeout=30)[0] == "it has ended\n"
    assert becomes(lambda: is_clean(folder), 5)
