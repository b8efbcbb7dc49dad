from __future__ import annotations

from pytest_xhyve.fleet.weight import guests_memory, has_spare_memory, weigh_guest
from pytest_xhyve.host.memory import Memory

MIB = 1 << 20


def test_a_guest_that_boots_costs_half_of_its_memory_and_the_hypervisor() -> None:
    assert weigh_guest(4096 * MIB, restored=False) == (2048 + 256) * MIB


def test_a_restored_guest_shares_most_of_it() -> None:
    assert weigh_guest(4000 * MIB, restored=True) == (1200 + 64) * MIB
    assert weigh_guest(64 * MIB, restored=True) == 128 * MIB


def test_guests_may_take_three_quarters() -> None:
    assert guests_memory(Memory(400, 100, "this host")) == 300


def test_a_tenth_stays_for_others() -> None:
    assert has_spare_memory(Memory(1000, 200, ""), 99)
    assert not has_spare_memory(Memory(1000, 200, ""), 100)
