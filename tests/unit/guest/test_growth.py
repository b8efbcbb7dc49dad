"""Where the root file system of a guest is, as the guest shows it."""

from __future__ import annotations

import pytest

from pytest_xhyve.guest.growth import _parse_root, _Root, _Unknown

BLOCKS = """\
/sys/class/block/vda/dev:254:0
/sys/class/block/vda/size:4194304
/sys/class/block/vda1/dev:254:1
/sys/class/block/vda1/partition:1
/sys/class/block/vda1/start:2048
/sys/class/block/vda1/size:2095104
/sys/class/block/dm-0/dev:253:0
/sys/class/block/dm-0/size:2095104
/sys/class/block/dm-1/dev:253:1
/sys/class/block/dm-1/size:409600
/sys/class/block/dm-0/dm/uuid:LVM-abc
/sys/class/block/dm-1/dm/uuid:CRYPT-LUKS2-abc
/sys/class/block/dm-0/slaves/vda1
/sys/class/block/dm-1/slaves/vda1
"""


def shown(mount: str, block: str = "4096", blocks: str = BLOCKS) -> str:
    others = "21 1 0:20 / /proc rw - proc proc rw\n22 1 0:2 / / rw - rootfs rootfs rw\n"
    return f"{others}{mount}\n23 22 254:1 / /mnt rw - ext4 /dev/vda1 rw\n\n{block}\n{blocks}"


def test_whole_disk() -> None:
    root = _parse_root(shown("24 1 254:0 / / rw,relatime - ext4 /dev/root rw"))
    assert root == _Root("ext4", "vda", 4096, None, 0, 4194304, 4194304)


def test_partition_with_optional_fields() -> None:
    root = _parse_root(shown("24 1 254:1 / / rw,relatime shared:1 master:2 - xfs /dev/vda1 rw,attr2"))
    assert root == _Root("xfs", "vda1", 4096, 1, 2048, 2095104, 4194304)


def test_btrfs_has_a_number_of_its_own() -> None:
    root = _parse_root(shown("24 1 0:25 /@ / rw,relatime - btrfs /dev/vda1 rw,subvol=/@"))
    assert (root.kind, root.partition) == ("btrfs", 1)


def test_logical_volume() -> None:
    root = _parse_root(shown("24 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw"))
    assert root == _Root("ext4", "vda1", 4096, 1, 2048, 2095104, 4194304, "dm-0")


TWO = f"{BLOCKS}/sys/class/block/dm-0/slaves/vdb\n"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (shown("24 1 253:1 / / rw - ext4 /dev/mapper/crypt rw"), "is on /dev/mapper/crypt, not on /dev/vda"),
        (shown("24 1 253:0 / / rw - ext4 /dev/mapper/a-b rw", blocks=TWO), r"a-b is on 2 devices \(vda1, vdb\)"),
        (shown("24 1 0:30 / / rw - tmpfs tmpfs rw"), "is on tmpfs, not on /dev/vda"),
        (shown("24 1 254:0 / / rw - f2fs /dev/vda rw"), "is f2fs; the plugin can grow ext4, XFS and btrfs"),
        (shown("24 1 254:0 / / rw - ext4 /dev/vda rw", block="?"), "does not show where"),
        (shown("24 1 254:0 / / rw - ext4 /dev/vda rw", blocks="/sys/class/block/vda/dev:254:0\n"), "size of /dev/vda"),
        ("", "does not show where"),
        ("\n\n4096\n", "does not show where"),
    ],
)
def test_root_that_cannot_grow(output: str, reason: str) -> None:
    with pytest.raises(_Unknown, match=reason):
        _parse_root(output)
