"""Memory that is taken away from a running guest."""

from __future__ import annotations

import pytest

from pytest_xhyve import ConfigurationError, Guest, XhyveError

pytestmark = [pytest.mark.run_under("warm", "xhyve"), pytest.mark.thorough_under("xhyve")]
MIB = 1 << 20


def spare(guest: Guest) -> int:
    """The MiB that a program can get."""
    shown = guest.run("cat /proc/meminfo").stdout
    return int(shown.partition("MemAvailable:")[2].split()[0]) >> 10


def fits(guest: Guest, mib: int) -> bool:
    """Whether a program can use so much; otherwise, the kernel kills it."""
    done = guest.run(f"dd if=/dev/zero of=/dev/null bs={mib}M count=1", check=False)
    assert done.returncode in (0, -1)
    return done.returncode == 0


@pytest.mark.thorough
@pytest.mark.parametrize("xhyve_guest", ["tiny", "debian12"], indirect=True)
def test_memory_is_taken_away(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    whole = spare(guest)
    big = whole * 2 // 3
    assert fits(guest, big)
    guest.take_memory(big * MIB)
    assert abs(whole - big - spare(guest)) < whole / 6
    assert not fits(guest, big)
    guest.take_memory("20M")
    assert fits(guest, big)
    guest.take_memory(None)
    assert spare(guest) > whole * 0.9

    guest.take_memory(big * MIB)
    memory = guest.machine.memory
    with pytest.raises(XhyveError, match=r"cannot spare .* of its memory: its kernel"):
        guest.take_memory(memory - MIB)
    assert spare(guest) > whole * 0.9
    for wrong in (memory, "1T", 0, -1, "all", True, float("nan")):
        with pytest.raises(ConfigurationError):
            guest.take_memory(wrong)  # type: ignore[arg-type]
    ends = [line.rpartition(" ")[2] for line in guest._faults.lines if "memory: " in line]
    assert ends == ["away", "away", "healed", "away", "healed"]

    guest.take_memory("20M")
    guest.reboot()
    assert spare(guest) > whole * 0.8
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        guest.take_memory("20M")


@pytest.mark.xhyve(image="tiny")
@pytest.mark.run_under("warm")
@pytest.mark.thorough
def test_snapshot_has_what_was_taken(xhyve_guest: Guest) -> None:
    whole = spare(xhyve_guest)
    snapshot = xhyve_guest.snapshot()
    xhyve_guest.take_memory("64M")
    without = xhyve_guest.snapshot()
    xhyve_guest.restore(snapshot)
    assert spare(xhyve_guest) > whole * 0.9
    xhyve_guest.restore(without)
    assert spare(xhyve_guest) < whole - 50
    xhyve_guest.take_memory(None)
    assert spare(xhyve_guest) > whole * 0.9
