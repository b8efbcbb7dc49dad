from __future__ import annotations

from pathlib import Path

import pytest
from facts import facts_of
from fake_images import qcow2

from pytest_xhyve.images.manifest import image_name
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.preparation.disk_file import look
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.system import check_system

DISK = Path("/disks/some.img")


def test_one_linux_is_taken() -> None:
    check_system(facts_of(), DISK)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("volume\t/dev/vdb1 crypto_LUKS", "partition 1 is encrypted"),
        ("volume\t/dev/vdb2 ntfs", "partition 2 has a file system of Windows"),
        ("volume\t/dev/vdb linux_raid_member", "the whole disk is a part of a RAID"),
        ("volume\t/dev/vdb1 swap\nproblem\t/dev/vdb2: bad superblock", "partition 1: swap\n    .*bad superblock"),
        ("", "what was found on it:\n    nothing"),
        ("root\t/dev/vdb1 ext4 \nroot\t/dev/vdb2 xfs ", "more than one system"),
        ("root\t/dev/vdb1 ext4 \nelf\tELF\narchitecture\t40", "for arm; guests are x86_64 or aarch64"),
        ("root\t/dev/vdb1 ext4 \nelf\t#!/\narchitecture\t62", "for an unknown architecture"),
    ],
)
def test_what_cannot_become_a_guest_is_named(lines: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_system(Facts.parse(lines), DISK)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("ubuntu18.img", "ubuntu18"),
        ("our_vm.img", "our_vm"),
        ("a b.qcow2", "a-b"),
        ("debian-12.5.img", "debian-12"),
        (".x", "x"),
        ("\u4e16.img", "image"),
        (f"{'x' * 47} y.img", "x" * 47),
    ],
)
def test_image_is_named_after_its_file(name: str, image: str) -> None:
    assert image_name(Path(name)) == image


def test_disk_that_is_cut_off(tmp_path: Path) -> None:
    from pytest_xhyve.formats.mbr import master_boot_record

    disk = tmp_path / "short.img"
    disk.write_bytes(master_boot_record(8 << 20, 1))
    with pytest.raises(ImageError, match="is cut off: its partitions end at byte 8388608, and the file has 512 bytes"):
        look(disk)


def test_format_that_cannot_be_saved_below_one_that_can(tmp_path: Path) -> None:
    disk = qcow2(tmp_path / "layer.qcow2", "base.vmdk")
    (tmp_path / "base.vmdk").write_bytes(b"KDMV")
    assert not look(disk).can_be_saved
    qcow2(tmp_path / "base.vmdk")
    assert look(disk).can_be_saved


def test_backing_file_that_is_gone(tmp_path: Path) -> None:
    disk = qcow2(tmp_path / "layer.qcow2", "base.img")
    with pytest.raises(ImageError, match=r"layer\.qcow2 is based on .*base\.img, which is missing"):
        look(disk)
    (tmp_path / "base.img").write_bytes(b"XFSB")
    assert look(disk).backing == (tmp_path / "base.img",)
