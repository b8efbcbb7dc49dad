"""An A/B update that loses its power at any step, or leaves any state on the disk that a crash may leave.

To copy: a cut after each step, with a real boot; then hundreds of states, in which the host does what the boot loader
does.
"""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_xhyve import CrashState, Guest

PROGRAM = Path(__file__).with_name("update.py")
STEPS: Sequence[str] = runpy.run_path(str(PROGRAM))["STEPS"]


def update(guest: Guest, *arguments: str) -> str:
    """Run the program on the guest's second disk."""
    return guest.run(["python3", "/root/update.py", "/dev/vdb", *arguments]).stdout


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_cut_after_each_step(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.put(PROGRAM, "/root/update.py")
    update(guest, "install", "1")
    guest.run("sync")
    for done in range(1, len(STEPS) + 1):
        update(guest, "install", "2", *STEPS[:done])
        guest.power_cut()
        guest.start()
        assert update(guest, "boot") == ("2\n" if done == len(STEPS) else "1\n")


def install_three_versions(guest: Guest, steps: Sequence[str]) -> None:
    """Install versions, each after the one before was acknowledged."""
    guest.put(PROGRAM, "/root/update.py")
    for version in ("1", "2", "3"):
        update(guest, "install", version, *steps)
        guest.mark(version)


def acknowledged_version_boots(disk: Path, state: CrashState) -> None:
    """Let the boot loader choose, and compare that with what was acknowledged before the crash."""
    device = runpy.run_path(str(PROGRAM))["Device"](str(disk))
    version = device.boot()
    device.close()
    assert version >= int(state.marks[-1] if state.marks else 0), f"version {version} boots after {state.marks}"


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_any_crash_leaves_a_version_that_boots(xhyve_guest: Guest) -> None:
    install_three_versions(xhyve_guest, STEPS)
    xhyve_guest.crash_states(500, seed=1, check=acknowledged_version_boots, boot=False, disk=1)


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_record_before_the_image_is_found(xhyve_guest: Guest) -> None:
    # The mistake: one sync for both.
    install_three_versions(xhyve_guest, ["image written", "record written", "record synced"])
    with pytest.raises(Exception, match=r"slot \d is not the version"):
        xhyve_guest.crash_states(50, seed=1, check=acknowledged_version_boots, boot=False, disk=1)
