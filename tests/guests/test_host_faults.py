"""What befalls the host harms as little as it can: one guest, not the run."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from warm import fleet_of, is_warm

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec


@pytest.fixture
def request_() -> ForegroundRequest:
    return ForegroundRequest(GuestSpec())


def test_folder_of_the_run_is_removed(request_: ForegroundRequest) -> None:
    """As by a job that cleans up, or by `git clean`: the next test has its guest, and nothing is left."""
    with fleet_of(Home.of_user(), []) as fleet:
        fleet.start(request_)
        first = fleet.run_folder
        assert first is not None
        shutil.rmtree(first)
        with fleet.start(request_) as guest:
            assert guest.run("echo well").stdout == "well\n"
        second = fleet.run_folder
        assert second not in (None, first)
    assert second is not None
    assert not first.exists()
    assert not second.exists()


def test_stopped_guardian_and_a_lost_folder(request_: ForegroundRequest, home: Home) -> None:
    with fleet_of(home, [], start="auto") as fleet:
        with fleet.start(request_) as guest:
            guest.run("true")
        shutil.rmtree(home.path / "slots")
        os.kill(fleet._run.get()[0].pid, signal.SIGSTOP)
        with fleet.start(request_) as guest:
            assert is_warm(guest)
            assert guest.run("echo well").stdout == "well\n"
        os.kill(fleet._run.get()[0].pid, signal.SIGSTOP)
    assert not list(Path(home.path / "runs").iterdir())
