from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.slots import Slot, Slots
from pytest_xhyve.model.errors import NoFreeSlot


def take(folder: Path, limit: int = 10, *, timeout: float = 0.0) -> Slot:
    (slot,) = Slots(folder, limit).acquire(1, timeout=timeout, cannot_succeed=lambda: False)
    return slot


def first_uuids(slot: Slot) -> list[UUID]:
    return list(islice(slot.uuids(), 3))


def test_slots_are_taken_from_the_lowest(tmp_path: Path) -> None:
    slots = [take(tmp_path) for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]
    os.close(slots[1].fd)
    assert take(tmp_path).number == 1


def test_a_slot_has_the_same_uuids_in_every_run(tmp_path: Path) -> None:
    slots = [take(tmp_path) for _ in range(10)]
    uuids = [first_uuids(slot) for slot in slots]
    assert len({uuid for some in uuids for uuid in some}) == 30
    for slot in slots:
        os.close(slot.fd)
    assert first_uuids(take(tmp_path)) == uuids[0]


def test_slots_of_another_folder_have_other_uuids(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not set(first_uuids(take(tmp_path / "a"))) & set(first_uuids(take(tmp_path / "b")))


def test_error_states_the_limit(tmp_path: Path) -> None:
    take(tmp_path, limit=1)
    with pytest.raises(NoFreeSlot, match=r"no free slot: the limit of running guests is 1 .*\n.*--xhyve-max-guests"):
        take(tmp_path, limit=1)


def test_waits_until_one_is_free(tmp_path: Path) -> None:
    first = take(tmp_path, limit=1)
    threading.Timer(0.2, os.close, [first.fd]).start()
    assert take(tmp_path, limit=1, timeout=30).number == 0


def test_does_not_wait_for_itself(tmp_path: Path) -> None:
    take(tmp_path, limit=1)
    with pytest.raises(NoFreeSlot):
        Slots(tmp_path, 1).acquire(1, timeout=3600, cannot_succeed=lambda: True)


def test_death_of_the_last_holder_frees_it(tmp_path: Path) -> None:
    """A child inherits the descriptor, as the hypervisor does, and holds the slot as long as it lives."""
    slot = take(tmp_path, limit=1)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[slot.fd])
    try:
        os.close(slot.fd)
        with pytest.raises(NoFreeSlot):
            take(tmp_path, limit=1, timeout=0.3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert take(tmp_path, limit=1).number == 0


def test_spare_slot_is_never_the_last(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 2)
    spare = slots.try_acquire_spare()
    assert spare is not None
    assert spare.number == 0
    assert slots.try_acquire_spare() is None
    # The failed attempt holds nothing.
    (last,) = slots.acquire(1, timeout=0, cannot_succeed=lambda: True)
    for slot in (spare, last):
        os.close(slot.fd)


def test_several_slots_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 3)
    held = slots.acquire(2, timeout=0, cannot_succeed=lambda: True)
    assert [slot.number for slot in held] == [0, 1]
    with pytest.raises(NoFreeSlot, match="no 2 free slots, which the test needs at once"):
        slots.acquire(2, timeout=0, cannot_succeed=lambda: True)
    # The failed attempt holds nothing.
    (last,) = slots.acquire(1, timeout=0, cannot_succeed=lambda: True)
    assert last.number == 2


def test_two_processes_that_need_two_slots_each_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """If they took one slot after the other, each would hold one and wait for the other's."""
    code = """
import os, sys, time
from pathlib import Path
from pytest_xhyve.fleet.admission import Admission
from contextlib import ExitStack
admission = Admission(Path(sys.argv[1]), 2, 0.1, print)
for _ in range(20):
    admission.reserve(2)
    with ExitStack() as stack:
        for slot in (admission.acquire(stack), admission.acquire(stack)):
            time.sleep(0.002)
            os.close(slot.fd)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(2)]
    assert [process.wait(30) for process in processes] == [0, 0]


def test_reserved_slots_are_released(tmp_path: Path) -> None:
    admission = Admission(tmp_path, 2, 1.0, print)
    admission.reserve(2)
    with ExitStack() as stack:
        os.close(admission.acquire(stack).fd)
        assert take(tmp_path, 2).number == 0
        with pytest.raises(NoFreeSlot):
            take(tmp_path, 2)
        admission.release_reserved()
        assert take(tmp_path, 2).number == 1


def test_reserving_more_than_the_limit_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(NoFreeSlot, match="no 2 free slots"):
        Admission(tmp_path, 1, 1.0, print).reserve(2)
