"""A RAID 1 that loses a disk while it is written to, gets it back, and then loses the other one.

To copy: two empty disks, `fail` and `heal`, and what `/proc/mdstat` shows of both.
"""

from __future__ import annotations

import pytest

from pytest_xhyve import Guest

CREATE = "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 /dev/vdb /dev/vdc"
LOAD = "number=0; while true; do number=$((number + 1)); echo $number >> /mnt/log || exit 1; sync -d /mnt/log; done"


@pytest.mark.xhyve(disks=["64M", "64M"])
def test_raid_survives_the_loss_of_each_disk(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run(f"modprobe raid1 && {CREATE} && mkfs.ext4 -q /dev/md0 && mount /dev/md0 /mnt")
    guest.run(f"({LOAD}) > /dev/null 2>&1 & echo $! > /run/load")
    guest.wait_for("test -s /mnt/log")

    guest.disks[1].fail()
    guest.wait_for("grep 'vdb.*(F)' /proc/mdstat")
    written = guest.run("wc -l < /mnt/log").stdout.strip()
    guest.wait_for(f"test $(wc -l < /mnt/log) -gt {written}")

    guest.disks[1].heal()
    guest.run("mdadm /dev/md0 --remove /dev/vdb && mdadm --zero-superblock /dev/vdb && mdadm /dev/md0 --add /dev/vdb")
    guest.wait_for("grep -F '[UU]' /proc/mdstat")

    # What was written while there was one disk is on the other one now.
    guest.disks[2].fail()
    guest.wait_for("grep 'vdc.*(F)' /proc/mdstat")
    guest.run("kill $(cat /run/load) && umount /mnt && e2fsck -fn /dev/md0 && mount /dev/md0 /mnt")
    numbers = guest.run("cat /mnt/log").stdout.splitlines()
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert len(numbers) > int(written)
