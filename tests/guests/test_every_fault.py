"""Every fault of one guest: of a booted one of debian12, and of a restored one of tiny.

Other tests show in detail what each does.
"""

from __future__ import annotations

import time

import pytest

from pytest_xhyve import Guest

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200), pytest.mark.run_under("qemu", "warm")]

READ = "dd if=/dev/vdb of=/dev/null bs=4096 count=1 iflag=direct"


def works(guest: Guest, command: str) -> bool:
    return guest.run(command, check=False).returncode == 0


@pytest.mark.xhyve(disks=["1M"], power_cuts=True)
def test_every_fault(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo flushed > /root/file && sync")
    snapshot = guest.snapshot()
    guest.run("rm /root/file")

    disk = guest.disks[1]
    disk.fail()
    assert not works(guest, READ)
    disk.heal()
    assert works(guest, READ)
    disk.unplug()
    assert not works(guest, "test -b /dev/vdb")
    disk.plug()
    guest.wait_for("test -b /dev/vdb")
    disk.slow(bytes_per_second="512K")
    begin = time.monotonic()
    guest.run("dd if=/dev/vdb of=/dev/null bs=64K count=16 iflag=direct")
    assert time.monotonic() - begin > 1
    disk.heal()

    guest.set_clock(offset=-3600)
    guest.pause()
    guest.resume(clock="now")
    assert abs(int(guest.run("date +%s").stdout) - time.time()) < 2
    guest.take_memory("40M")
    guest.take_memory(None)
    with guest.chaos(seed=1, every=0.3) as chaos:
        for _ in range(10):
            guest.run("sync")
    assert chaos.skipped == ()

    guest.restore(snapshot)
    assert guest.run("cat /root/file").stdout == "flushed\n"
    guest.run("echo lost | dd of=/root/written bs=512 conv=sync oflag=direct")
    guest.power_cut()
    guest.start()
    assert guest.run("cat /root/file").stdout == "flushed\n"
    assert not works(guest, "grep -q lost /root/written")
    guest.run("echo more > /root/file && sync")
    assert len(guest.crash_states(5, seed=1, check=lambda path, _: path.stat().st_size > 0, boot=False)) == 5
