"""The sizes of disks: make an empty disk, make a clone larger, find a disk's size."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.host.clone import disk_name
from pytest_xhyve.host.home import about_room
from pytest_xhyve.host.qemu_img import has_qemu_img, run_qemu_img
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.machine import Disk, DiskFormat
from pytest_xhyve.model.values import format_size


def virtual_size(disk: Path) -> int:
    """The size of the raw or qcow2 *disk*, as a guest sees it, in bytes.

    Raises:
        OSError: the file cannot be read.
    """
    header = read_qcow2_header(disk)
    return disk.stat().st_size if header is None else header.size


def check_size(size: int | None, disk: Path) -> None:
    """Check that a clone of *disk* can be made to have *size* bytes; None leaves it as it is.

    Raises:
        ConfigurationError: *disk* is larger than that.
    """
    if size is not None and size < (old := virtual_size(disk)):
        raise ConfigurationError(
            f"disk_size: {format_size(size)} is less than the {format_size(old)} of the image's disk; a disk only grows"
        )


def create_empty_disks(sizes: Sequence[int], folder: Path, formats: frozenset[DiskFormat]) -> tuple[Disk, ...]:
    """Create an empty disk in *folder* for each size in bytes; their files are sparse.

    They are qcow2 files if possible: a template's files are read as a whole, and these are small.

    Args:
        sizes: the sizes of a guest's disks from the second one on.
        folder: gets the files ``disk1.qcow2`` or ``disk1.raw`` and so on.
        formats: the formats that the hypervisor supports.

    Raises:
        ImageError: a disk cannot be created.
    """
    return tuple(_create(size, folder / disk_name(number), formats) for number, size in enumerate(sizes, 1))


def enlarge(disk: Disk, size: int) -> None:
    """Make *disk* have *size* bytes.

    Raises:
        ConfigurationError: it is larger than that.
        ImageError: it cannot be enlarged.
    """
    check_size(size, disk.path)
    if disk.format == "raw":
        _truncate(disk.path, size)
    elif size > virtual_size(disk.path):
        _run("resize", "-q", "-f", disk.format, str(disk.path), str(size), folder=disk.path.parent)


def _create(size: int, path: Path, formats: frozenset[DiskFormat]) -> Disk:
    if "qcow2" in formats and has_qemu_img():
        disk = Disk(path.with_name(f"{path.name}.qcow2"), "qcow2")
        _run("create", "-q", "-f", "qcow2", str(disk.path), str(size), folder=path.parent)
        disk.path.chmod(0o600)
        return disk
    disk = Disk(path.with_name(f"{path.name}.raw"))
    os.close(os.open(disk.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    _truncate(disk.path, size)
    return disk


def _truncate(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError as error:
        raise _failed(path.parent, error.strerror or str(error)) from error


def _run(*arguments: str, folder: Path) -> None:
    try:
        done = run_qemu_img(*arguments)
    except ImageError as error:
        raise _failed(folder, str(error)) from error
    if done.returncode != 0:
        raise _failed(folder, done.stderr.strip() or "qemu-img failed")


def _failed(folder: Path, reason: str) -> ImageError:
    full = os.strerror(errno.ENOSPC) in reason
    return ImageError(f"cannot make a disk in {folder}: {reason}" + (f"\n{about_room(folder)}" if full else ""))
