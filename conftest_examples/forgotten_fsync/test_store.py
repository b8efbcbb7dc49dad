"""A program that forgets one fsync: some of the states that a crash may leave on its disk show it, and no cut has to.

To copy: the program has a disk of its own, each acknowledged change is marked, and the check runs the program's own
recovery on the host, in each state.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from pytest_xhyve import CrashState, Guest

PROGRAM = Path(__file__).with_name("store.py")


def run_store(guest: Guest, *options: str) -> None:
    """Store some numbers, each one after the one before was acknowledged."""
    guest.put(PROGRAM, "/root/store.py")
    for number in range(1, 9):
        key = number % 3
        guest.run(["python3", "/root/store.py", "/dev/vdb", str(key), str(number), *options])
        guest.mark(f"{key}={number}")


def acknowledged_numbers_are_there(disk: Path, state: CrashState) -> None:
    """Run the store's recovery, and compare what is there with what was acknowledged before the crash."""
    store = runpy.run_path(str(PROGRAM))["Store"](str(disk))
    store.recover()
    acknowledged = {int(key): int(value) for key, _, value in (mark.partition("=") for mark in state.marks)}
    for key in range(3):
        # A number may be there before it is acknowledged.
        assert store.get(key) >= acknowledged.get(key, 0), f"key {key} lost {acknowledged[key]}"
    store.close()


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_store_keeps_what_it_acknowledged(xhyve_guest: Guest) -> None:
    run_store(xhyve_guest)
    states = xhyve_guest.crash_states(500, seed=1, check=acknowledged_numbers_are_there, boot=False, disk=1)
    assert len(states) == 500


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_missing_fsync_is_found(xhyve_guest: Guest) -> None:
    run_store(xhyve_guest, "forgetful")
    with pytest.raises(AssertionError, match=r"torn|lost"):
        xhyve_guest.crash_states(50, seed=1, check=acknowledged_numbers_are_there, boot=False, disk=1)
