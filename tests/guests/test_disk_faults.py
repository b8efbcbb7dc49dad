"""Disks that fail, are slow, and are mended, while the guest runs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_xhyve import ConfigurationError, Guest, XhyveError

pytestmark = pytest.mark.run_under("warm")

WRITE = "oflag=direct bs=4096 count=1 if=/dev/zero of=/dev/vdb"
THREE_MEBIBYTES = "for n in 1 2 3; do dd if=/dev/zero of=/dev/vdb bs=1M count=1 oflag=direct || exit 1; done"
READ = "iflag=direct bs=4096 count=1 if=/dev/vdb of=/dev/null"


def works(guest: Guest, arguments: str) -> bool:
    done = guest.run(f"dd {arguments}", check=False)
    assert done.returncode == 0 or "Input/output error" in done.stderr
    return done.returncode == 0


@pytest.mark.xhyve(image="tiny", disks=["1M"])
def test_disk_fails_and_is_mended(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    assert [disk.size >> 20 for disk in guest.disks] == [1024, 1]
    disk = guest.disks[1]

    def state() -> tuple[bool, bool, bool]:
        """Whether reads and writes of block 0 work, and reads of block 5."""
        return works(guest, READ), works(guest, WRITE), works(guest, f"{READ} skip=5")

    for fault, expected in (
        ({}, (False, False, False)),
        ({"reads": False}, (True, False, True)),
        ({"writes": False}, (False, True, False)),
        ({"sector": 41}, (True, True, False)),
    ):
        disk.fail(**fault)
        assert state() == expected
    # Records begin under a fault, and go on over it.
    guest.record_writes()
    assert state() == (True, True, False)
    disk.heal()
    disk.heal()
    assert state() == (True, True, True)
    disk.fail(reads=False, writes=False, flushes=True)
    assert not works(guest, "if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync")
    disk.heal()

    disk.slow(bytes_per_second="1M")
    begin = time.monotonic()
    guest.run(THREE_MEBIBYTES)
    slow = time.monotonic() - begin
    disk.heal()
    begin = time.monotonic()
    guest.run(THREE_MEBIBYTES)
    assert slow > 1.5 > time.monotonic() - begin

    wrong: list[dict[str, Any]] = [
        {"errno": "ENOSPC"},
        {"errno": 5},
        {"errno": "nothing"},
        {"sector": 2048},
        {"sector": -1},
        {"sector": True},
        {"reads": False, "writes": False},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigurationError):
            disk.fail(**arguments)
    for arguments in ({}, {"iops": 0}, {"bytes_per_second": "fast"}):
        with pytest.raises(ConfigurationError):
            disk.slow(**arguments)
    with pytest.raises(IndexError):
        guest.disks[2].fail()

    # A fault ends with the machine.
    disk.fail()
    guest.kill()
    with pytest.raises(XhyveError, match="is off"):
        disk.fail()
