"""A file system that loses its power while it is written to: it is whole afterwards, and what was synced is there.

To copy: `power_cut` keeps what was flushed, `start` boots from that; the test's own guest may be treated so.
"""

from __future__ import annotations

import pytest

from pytest_xhyve import Guest

# SSH answers before all of the guest is up: the module is loaded, and not waited for.
MOUNT = "modprobe loop && mkdir -p /mnt/disk && mount -o loop /var/disk.img /mnt/disk"


@pytest.mark.xhyve(power_cuts=True)
def test_power_cut_while_it_is_written(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("truncate --size=64M /var/disk.img && mkfs.ext4 -q /var/disk.img")
    guest.run(f"{MOUNT} && echo kept > /mnt/disk/synced && sync")
    guest.run("(while true; do date > /mnt/disk/$(date +%N); done) > /dev/null 2>&1 &")
    guest.wait_for("test $(ls /mnt/disk | wc -l) -gt 10")

    guest.power_cut()
    guest.start()

    # The journal is replayed by the mount; after that, nothing is left to mend.
    guest.run(f"{MOUNT} && umount /mnt/disk")
    guest.run(["fsck.ext4", "-f", "-n", "/var/disk.img"])
    guest.run(MOUNT)
    assert guest.run("cat /mnt/disk/synced").stdout == "kept\n"
