"""Empty disks, and clones that become larger."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from fake_images import qcow2
from mounting import mounted

from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.disk_size import create_empty_disks, enlarge, virtual_size
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.machine import Disk, DiskFormat

RAW: frozenset[DiskFormat] = frozenset({"raw"})
BOTH: frozenset[DiskFormat] = frozenset({"raw", "qcow2"})
MIB, GIB = 1 << 20, 1 << 30


def info(disk: Disk) -> int:
    """The size as QEMU sees it."""
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", "-f", disk.format, disk.path], check=True, capture_output=True
    )
    size: int = json.loads(done.stdout)["virtual-size"]
    return size


@pytest.mark.parametrize("formats", [RAW, BOTH], ids=["raw", "qcow2"])
def test_empty_disks_are_sparse(tmp_path: Path, formats: frozenset[DiskFormat]) -> None:
    disks = create_empty_disks([GIB, 3 * MIB], tmp_path, formats)
    assert [info(disk) for disk in disks] == [GIB, 3 * MIB]
    assert [virtual_size(disk.path) for disk in disks] == [GIB, 3 * MIB]
    for number, disk in enumerate(disks, 1):
        assert disk.path.stem == f"disk{number}"
        assert disk.format in formats
        assert disk.path.stat().st_blocks * 512 < MIB
        assert disk.path.stat().st_mode & 0o777 == 0o600


def test_without_qemu_img_they_are_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (disk,) = create_empty_disks([GIB], tmp_path, BOTH)
    assert (disk.format, disk.path.stat().st_size) == ("raw", GIB)


def test_disk_on_a_full_file_system(tmp_path: Path) -> None:
    with mounted(tmp_path / "mount", "size=64k") as folder:
        (folder / "full").write_bytes(bytes(60 << 10))
        with pytest.raises(ImageError, match=r"(?s)cannot make a disk in .*No space left.*KiB are free"):
            create_empty_disks([GIB], folder, BOTH)


def test_disk_larger_than_its_file_system_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot make a disk in .*: File too large"):
        create_empty_disks([1 << 62], tmp_path, RAW)


@pytest.mark.parametrize("formats", ["raw", "qcow2"])
def test_clone_becomes_larger(tmp_path: Path, formats: DiskFormat) -> None:
    disk = Disk(tmp_path / "disk", formats)
    subprocess.run(["qemu-img", "create", "-q", "-f", formats, disk.path, "4M"], check=True)
    enlarge(disk, 4 * MIB)
    assert info(disk) == 4 * MIB
    enlarge(disk, GIB)
    assert info(disk) == GIB
    with pytest.raises(ConfigurationError, match="disk_size: 4 MiB is less than the 1 GiB of the image's disk"):
        enlarge(disk, 4 * MIB)


def test_larger_qcow2_needs_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError, match="qemu-img not found"):
        enlarge(Disk(qcow2(tmp_path / "disk.qcow2", size=MIB), "qcow2"), GIB)


def test_size_on_disk_counts_no_holes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert size_on_disk(tmp_path) < 1 << 20
    assert size_on_disk(tmp_path / "gone") == 0
