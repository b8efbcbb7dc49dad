from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from pytest_xhyve.fleet.slots import HeldSlot, Holder, Slot, Slots

GIB = 1 << 30
TEST = Holder(os.getpid(), "test_a.py::test_it")


def take(folder: Path, limit: int = 10, *weights: int) -> list[Slot] | None:
    return Slots(folder, limit, 4 * GIB).take(weights or [0], TEST)


def take_one(folder: Path) -> Slot:
    slots = take(folder)
    assert slots is not None
    (slot,) = slots
    return slot


def first_uuids(slot: Slot) -> list[UUID]:
    return list(islice(slot.uuids(), 3))


def close(slots: list[Slot] | None) -> None:
    for slot in slots or ():
        os.close(slot.fd)


def test_slots_are_taken_from_the_lowest(tmp_path: Path) -> None:
    slots = [take_one(tmp_path) for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]
    os.close(slots[1].fd)
    assert take_one(tmp_path).number == 1


def test_a_slot_has_the_same_uuids_in_every_run(tmp_path: Path) -> None:
    slots = [take_one(tmp_path) for _ in range(10)]
    uuids = [first_uuids(slot) for slot in slots]
    assert len({uuid for some in uuids for uuid in some}) == 30
    close(slots)
    assert first_uuids(take_one(tmp_path)) == uuids[0]


def test_slots_of_another_folder_have_other_uuids(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert not set(first_uuids(take_one(tmp_path / "a"))) & set(first_uuids(take_one(tmp_path / "b")))


def test_death_of_the_last_holder_frees_it(tmp_path: Path) -> None:
    """A child inherits the descriptor, as the hypervisor does, and holds the slot as long as it lives."""
    slot = take_one(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[slot.fd])
    try:
        os.close(slot.fd)
        assert take(tmp_path, 1) is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert take_one(tmp_path).number == 0


def test_several_slots_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    slots = take(tmp_path, 3, 0, 0)
    assert slots is not None
    assert [slot.number for slot in slots] == [0, 1]
    assert take(tmp_path, 3, 0, 0) is None
    # The failed attempt holds nothing.
    last = take(tmp_path, 3)
    assert last is not None
    assert last[0].number == 2


def test_memory_of_all_guests_is_limited(tmp_path: Path) -> None:
    first = take(tmp_path, 10, 2 * GIB, GIB)
    assert take(tmp_path, 10, GIB + 1) is None
    second = take(tmp_path, 10, GIB)
    assert take(tmp_path, 10, 1) is None
    close(first)
    assert take(tmp_path, 10, 3 * GIB) is not None
    close(second)


def test_slots_beyond_the_own_limit_take_memory(tmp_path: Path) -> None:
    """Another process may have a higher limit."""
    close(take(tmp_path, 1))
    others = take(tmp_path, 5, 0, 0, GIB, 2 * GIB)
    assert others is not None
    close(others[:1])
    assert take(tmp_path, 1, GIB + 1) is None
    assert take(tmp_path, 1, GIB) is not None


def test_held_slots_name_their_tests(tmp_path: Path) -> None:
    slots = take(tmp_path, 10, GIB, 5)
    assert slots is not None
    close(slots[:1])
    assert Slots(tmp_path, 10, GIB).held() == [HeldSlot(1, 5, TEST)]
    assert str(TEST) == f"test_a.py::test_it (process {os.getpid()})"


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"[]", b"12", b'{"weight": -1, "pid": [], "test": 7}', b"[" * 9999]
)
def test_slot_with_other_content_weighs_a_guest_of_the_default_size(tmp_path: Path, content: bytes) -> None:
    """An older plugin writes nothing into it."""
    slots = take(tmp_path)
    (tmp_path / "000.lock").write_bytes(content)
    assert Slots(tmp_path, 10, 0).held() == [HeldSlot(0, 256 << 20, Holder(0, ""))]
    close(slots)
    assert take_one(tmp_path).number == 0


def test_slot_grows_only_if_there_is_room(tmp_path: Path) -> None:
    slots = take(tmp_path, 10, GIB, GIB)
    assert slots is not None
    desk = Slots(tmp_path, 10, 4 * GIB)
    assert desk.grow(slots[0], 3 * GIB + 1) is None
    larger = desk.grow(slots[0], 3 * GIB)
    assert larger is not None
    assert larger.weight == 3 * GIB
    assert [held.weight for held in desk.held()] == [3 * GIB, GIB]
