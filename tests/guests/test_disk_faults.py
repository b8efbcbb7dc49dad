"""Disks that fail, are slow, and are mended, while the guest runs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_xhyve import ConfigurationError, Guest, NotSupported, XhyveError

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


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", disks=["1M", "1M"], power_cuts=True)
def test_disk_is_unplugged_and_plugged_in(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    disk = guest.disks[1]

    def there() -> str:
        return guest.run("cd /sys/block && echo vd*").stdout.strip()

    assert there() == "vda vdb vdc"
    guest.run("echo kept | dd of=/dev/vdb bs=512 conv=sync,fsync")
    disk.unplug()
    assert there() == "vda vdc"
    with pytest.raises(XhyveError, match=r"disk 1 is unplugged; plug\(\) plugs it in"):
        disk.unplug()
    without = guest.snapshot()
    # What is possible in the meantime: the pause of a guest whose writes are recorded, and faults for later.
    guest.pause()
    guest.resume()
    disk.fail(writes=False, sector=8)
    disk.slow(iops=1000)
    disk.plug()
    guest.wait_for("test -b /dev/vdb")
    with pytest.raises(XhyveError, match="is plugged in"):
        disk.plug()
    assert guest.run("dd if=/dev/vdb bs=512 count=1").stdout.strip("\0") == "kept\n"
    assert not works(guest, f"{READ} skip=1")
    disk.heal()
    assert works(guest, f"{READ} skip=1")
    assert [
        line.partition("s: ")[2] for line in guest._faults.lines if "disk 1: " in line and "of disk" not in line
    ] == [
        "disk 1: unplugged",
        "disk 1: healed",
    ]
    snapshot = guest.snapshot()

    # A snapshot has the disks that were plugged in, whatever is now; a machine that boots has all.
    guest.restore(without)
    assert there() == "vda vdc"
    guest.restore(snapshot)
    assert there() == "vda vdb vdc"
    guest.run("echo lost | dd of=/dev/vdc bs=512 conv=sync oflag=direct")
    disk.unplug()
    # A restart leaves it out.
    guest.reboot()
    assert there() == "vda vdb"
    guest.power_cut()
    guest.start()
    assert there() == "vda vdb vdc"
    assert guest.run("dd if=/dev/vdb bs=512 count=1; dd if=/dev/vdc bs=512 count=1").stdout.strip("\0") == "kept\n"
    with pytest.raises(NotSupported, match="the first disk has the guest's system"):
        guest.disks[0].unplug()

    guest.pause()
    with pytest.raises(XhyveError, match="is paused, so it cannot release disk 2"):
        guest.disks[2].unplug()


@pytest.mark.thorough
def test_guest_does_not_release_its_disk(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import dataclasses

        def pytest_xhyve_machine(machine):
            return dataclasses.replace(machine, cmdline=machine.cmdline + " acpiphp.disable=1")
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from pytest_xhyve import XhyveError

        @pytest.mark.xhyve(disks=["1M"] * 20)
        def test_disk(xhyve_guest):
            assert xhyve_guest.run("ls -d /sys/block/vd* | wc -l").stdout == "21\\n"
            with pytest.raises(XhyveError, match="has not released disk 20 within"):
                xhyve_guest.disks[20].unplug()
            xhyve_guest.run("test -b /dev/vdu")
        """
    )
    pytester.runpytest("--xhyve-image=tiny", "--xhyve-start=cold").assert_outcomes(passed=1)
