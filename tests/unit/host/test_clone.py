from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_xhyve.host.clone import clone_by_copy, clone_by_overlay, clone_by_reflink, clone_disk
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.errors import ImageError, NotSupported
from pytest_xhyve.model.machine import Disk, DiskFormat

RAW: frozenset[DiskFormat] = frozenset({"raw"})
BOTH: frozenset[DiskFormat] = frozenset({"raw", "qcow2"})
MIB = 1 << 20

needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="loop mounts need root")


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of this *kind*, of 60 GiB, in a sparse file."""
    image, at = folder / f"{kind}.fs", folder / kind
    with image.open("wb") as file:
        file.truncate(60 << 30)
    options = {"xfs": ["-m", "reflink=1", "-q"], "btrfs": ["-q"], "ext4": ["-q"]}[kind]
    subprocess.run([f"mkfs.{kind}", *options, str(image)], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
        image.unlink()


@pytest.fixture(params=["btrfs", "xfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system that shares extents."""
    with mounted(request.param, tmp_path) as at:
        yield at


def sparse(path: Path, size: int) -> Disk:
    """A disk of *size* bytes with a few pieces of random data, at both ends too."""
    pieces = random.Random(1)
    with path.open("wb") as file:
        file.truncate(size)
        for at in (0, size // 3 & ~4095, size - 4096):
            file.seek(at)
            file.write(pieces.randbytes(4096))
    return Disk(path)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def shared_extents(path: Path) -> bool:
    done = subprocess.run(["filefrag", "-v", str(path)], check=True, capture_output=True, text=True)
    return "shared" in done.stdout


@needs_mounts
def test_reflink_where_the_file_system_shares(sharing: Path, tmp_path: Path) -> None:
    source = sparse(sharing / "image.raw", 64 * MIB)
    folder = sharing / "guest"
    folder.mkdir()
    clone = clone_disk(source, folder, BOTH)
    assert clone == Disk(folder / "disk.raw", "raw")
    assert clone.path.read_bytes() == source.path.read_bytes()
    os.sync()
    assert shared_extents(clone.path)
    before = source.path.read_bytes()
    with clone.path.open("r+b") as disk:
        disk.write(b"the guest writes")
    assert source.path.read_bytes() == before
    assert clone.path.stat().st_mode & 0o777 == 0o600


@needs_mounts
def test_reflink_of_qcow2_stays_qcow2(sharing: Path) -> None:
    path = sharing / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1G"], check=True)
    clone = clone_disk(Disk(path, "qcow2"), guest_folder(sharing), BOTH)
    assert clone.format == "qcow2"
    assert clone.path.read_bytes() == path.read_bytes()


@needs_mounts
def test_other_file_system_than_the_image(sharing: Path, tmp_path: Path) -> None:
    source = sparse(tmp_path / "image.raw", 16 * MIB)
    assert clone_disk(source, guest_folder(sharing), BOTH).format == "qcow2"


@needs_mounts
def test_reflink_costs_the_same_for_any_size(sharing: Path) -> None:
    assert cost_of(sharing, clone_by_reflink) < 0.25


@needs_mounts
def test_full_file_system_is_said(tmp_path: Path) -> None:
    at = tmp_path / "full"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)], check=True)
    try:
        source = Disk(tmp_path / "image.raw")
        source.path.write_bytes(random.Random(1).randbytes(4 * MIB))
        with pytest.raises(ImageError, match="No space left on device"):
            clone_disk(source, at, RAW)
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_overlay_costs_the_same_for_any_size(tmp_path: Path) -> None:
    assert cost_of(tmp_path, lambda source, target: clone_by_overlay(Disk(source), target)) < 0.25


def cost_of(folder: Path, clone: object) -> float:
    """By how many seconds cloning 50 GiB takes longer than 1 GiB, the best of some tries."""
    assert callable(clone)
    best = {}
    for size in (1 << 30, 50 << 30):
        source = sparse(folder / f"{size}.raw", size).path
        tries = []
        for number in range(5):
            start = time.monotonic()
            clone(source, folder / f"{size}-{number}")
            tries.append(time.monotonic() - start)
        best[size] = min(tries)
    return best[50 << 30] - best[1 << 30]


def test_overlay_reads_from_the_image_and_keeps_it(tmp_path: Path) -> None:
    source = sparse(tmp_path / "an image, with: odd name.raw", 16 * MIB)
    target = tmp_path / "clone.qcow2"
    clone_by_overlay(source, target)
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(target), str(back)], check=True)
    assert back.read_bytes() == source.path.read_bytes()
    assert allocated(target) < MIB


def test_copy_keeps_holes(tmp_path: Path) -> None:
    source = sparse(tmp_path / "image.raw", 64 * MIB)
    clone_by_copy(source.path, tmp_path / "clone.raw")
    assert allocated(tmp_path / "clone.raw") <= 2 * allocated(source.path)
    assert subprocess.run(["cmp", str(source.path), str(tmp_path / "clone.raw")], check=False).returncode == 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 3 * MIB + 17])
def test_copy_of_odd_sizes(tmp_path: Path, size: int) -> None:
    source = tmp_path / "image.raw"
    source.write_bytes(random.Random(size).randbytes(size))
    clone_by_copy(source, tmp_path / "clone.raw")
    assert (tmp_path / "clone.raw").read_bytes() == source.read_bytes()


def test_raw_only_hypervisor_gets_a_copy(tmp_path: Path) -> None:
    source = sparse(tmp_path / "image.raw", 16 * MIB)
    clone = clone_disk(source, guest_folder(tmp_path), RAW)
    assert clone.format == "raw"
    assert clone.path.read_bytes() == source.path.read_bytes()


def test_raw_only_hypervisor_refuses_qcow2(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="use QEMU"):
        clone_disk(Disk(tmp_path / "image.qcow2", "qcow2"), tmp_path, RAW)


def test_image_may_be_read_only(tmp_path: Path) -> None:
    source = sparse(tmp_path / "image.raw", MIB)
    source.path.chmod(0o400)
    clone = clone_disk(source, guest_folder(tmp_path), RAW)
    # root can write to any file, so the mode counts.
    assert clone.path.stat().st_mode & 0o777 == 0o600
    assert source.path.stat().st_mode & 0o777 == 0o400


def guest_folder(at: Path) -> Path:
    folder = at / "guest"
    folder.mkdir()
    return folder


def test_overlay_outlives_the_link_by_which_its_source_was_found(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"disk" * 1024)
    link = tmp_path / "link.img"
    link.symlink_to("disk.img")
    clone_by_overlay(Disk(link, "raw"), tmp_path / "disk.qcow2")
    link.unlink()
    subprocess.run(["qemu-img", "check", "-q", str(tmp_path / "disk.qcow2")], check=True)


def test_layer_with_a_relative_base_is_never_copied(tmp_path: Path) -> None:
    """As on a file system that shares extents: a copy elsewhere would name another file."""
    (tmp_path / "images").mkdir()
    (tmp_path / "runs").mkdir()
    base = sparse(tmp_path / "images" / "base.img", MIB)
    layer = Disk(tmp_path / "images" / "layer.qcow2", "qcow2")
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", str(layer.path)]
    subprocess.run(argv, check=True)
    clone = clone_disk(layer, tmp_path / "runs", BOTH)
    assert [path.resolve() for path in backing_files(clone.path, "qcow2")] == [layer.path, base.path]
