"""Clone a disk copy-on-write: one function for each method, and one that selects the method.

All methods but the plain copy take the same time for a disk of 1 GiB and of 50 GiB.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.host.home import about_room
from pytest_xhyve.host.qemu_img import QemuImgNotFound, run_qemu_img
from pytest_xhyve.model.errors import ImageError, NotSupported
from pytest_xhyve.model.machine import Disk, DiskFormat

_FICLONE = 0x40049409  # <linux/fs.h>; fcntl.FICLONE comes with Python 3.12
_CHUNK = 1 << 20

DISK = "disk"
"""The name of a guest's first disk, without its suffix."""

# The errors of clonefile(2) and ioctl_ficlone(2) that mean: not supported for these two files.
_NOT_HERE = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.ETXTBSY,
    errno.EXDEV,
}


class CloneMethodUnavailable(Exception):
    """This method of cloning does not work for this source and target."""


def clone_disk(source: Disk, folder: Path, formats: frozenset[DiskFormat], name: str = DISK) -> Disk:
    """Clone *source* into *folder* with the first method that works there.

    Args:
        source: the image's disk; it is only read.
        folder: gets the clone, named ``disk.raw`` or ``disk.qcow2``.
        formats: the formats that the hypervisor supports.
        name: another name than ``disk``.

    Returns:
        the clone.

    Raises:
        NotSupported: the hypervisor does not support the disk's format.
        ImageError: the clone cannot be made (no space, no permission).
    """
    if source.format not in formats:
        raise NotSupported(
            f"{source.path} is {source.format}, but this hypervisor supports only {', '.join(sorted(formats))}; "
            "use QEMU, or convert the disk with `qemu-img convert -O raw`"
        )
    same_format = folder / f"{name}.{source.format}"
    methods: list[tuple[Disk, Callable[[Path], None]]] = [
        (Disk(same_format, source.format), lambda target: clone_by_clonefile(source.path, target)),
        (Disk(same_format, source.format), lambda target: clone_by_reflink(source.path, target)),
        (Disk(same_format, source.format), lambda target: clone_by_copy(source.path, target)),
    ]
    if "qcow2" in formats:
        methods.insert(2, (Disk(folder / f"{name}.qcow2", "qcow2"), lambda target: clone_by_overlay(source, target)))
    if _names_base_relatively(source):
        # A copy in another folder would name another file.
        methods = methods[2:3]
    for disk, method in methods:
        try:
            method(disk.path)
        except CloneMethodUnavailable:
            disk.path.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_clone(source.path, folder, error.strerror or str(error)) from error
        else:
            return disk
    raise ImageError(
        f"cannot clone {source.path}, which is a layer: qemu-img not found (qemu-utils, or brew install qemu)"
    )


def _names_base_relatively(disk: Disk) -> bool:
    """Whether *disk* is based on a file that it names relative to its own folder."""
    if disk.format != "qcow2":
        return False
    header = read_qcow2_header(disk.path)
    return (
        header is not None and header.backing is not None and not header.backing.removeprefix("file:").startswith("/")
    )


def overlay_disk(source: Disk, folder: Path, formats: frozenset[DiskFormat], *, name: str | None = None) -> Disk:
    """Like `clone_disk`, but the clone contains only the differences, if the hypervisor supports qcow2.

    Args:
        source: the image's disk.
        folder: gets the clone.
        formats: the formats that the hypervisor supports.
        name: how the clone names *source*, as in `create_overlay`.
    """
    overlay = Disk(folder / f"{DISK}.qcow2", "qcow2")
    if overlay.format in formats and source.format in formats:
        try:
            create_overlay(source.path, source.format, overlay.path, name=name)
        except CloneMethodUnavailable:
            # qemu-img is not installed.
            return clone_disk(source, folder, formats)
        return overlay
    return clone_disk(source, folder, formats)


def clone_disks(sources: Sequence[Disk], folder: Path, formats: frozenset[DiskFormat]) -> tuple[Disk, ...]:
    """Like `clone_disk` for all disks of a machine, in their order."""
    return tuple(clone_disk(disk, folder, formats, disk_name(number)) for number, disk in enumerate(sources))


def disk_name(number: int) -> str:
    """The name of a guest's disk *number*, from 0, without its suffix: ``disk``, ``disk1``, ``disk2`` and so on."""
    return f"{DISK}{number or ''}"


def clone_file(source: Path, target: Path) -> None:
    """Clone any file; the two files share their blocks if the file system supports that.

    Raises:
        OSError: the file cannot be cloned, for example because the disk is full.
    """
    for method in (clone_by_clonefile, clone_by_reflink, clone_by_copy):
        try:
            method(source, target)
        except CloneMethodUnavailable:
            target.unlink(missing_ok=True)
        else:
            return


def clone_by_clonefile(source: Path, target: Path) -> None:
    """Clone with clonefile(2): macOS on APFS."""
    if sys.platform != "darwin":
        raise CloneMethodUnavailable
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clonefile(os.fsencode(source), os.fsencode(target), 0) != 0:
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            raise CloneMethodUnavailable
        raise OSError(number, os.strerror(number), str(target))
    target.chmod(0o600)


def clone_by_reflink(source: Path, target: Path) -> None:
    """Clone with FICLONE (ioctl_ficlone(2)): Linux on btrfs, XFS and others that share extents."""
    if sys.platform != "linux":
        raise CloneMethodUnavailable
    with source.open("rb") as from_file, _new_file(target) as to_file:
        try:
            fcntl.ioctl(to_file, _FICLONE, from_file.fileno())
        except OSError as error:
            if error.errno in _NOT_HERE:
                raise CloneMethodUnavailable from error
            raise


def clone_by_overlay(source: Disk, target: Path) -> None:
    """Create a qcow2 file at *target* with only the differences to its backing file *source*."""
    create_overlay(source.path, source.format, target)


def create_overlay(source: Path, source_format: str, target: Path, *, name: str | None = None) -> None:
    """Create a qcow2 file at *target* with only the differences to its backing file *source* (qemu-img(1)).

    Args:
        source: a disk in any format that QEMU reads.
        source_format: its format as QEMU names it.
        target: the new file.
        name: how the new file names *source*, if not by its absolute path; qemu-img takes it as relative to *target*.

    Raises:
        CloneMethodUnavailable: qemu-img is not installed.
        ImageError: qemu-img failed.
    """
    # A template may exist longer than the symbolic link to its image, so the link is resolved.
    base = name or str(source.resolve())
    try:
        done = run_qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", source_format, str(target))
    except QemuImgNotFound as error:
        raise CloneMethodUnavailable from error
    if done.returncode != 0:
        raise _cannot_clone(source, target.parent, done.stderr.strip() or "qemu-img failed")
    target.chmod(0o600)


def clone_by_copy(source: Path, target: Path) -> None:
    """Copy the data of *source* and keep its holes (lseek(2), SEEK_DATA)."""
    with source.open("rb", buffering=0) as from_file, _new_file(target) as to_file:
        size = os.fstat(from_file.fileno()).st_size
        to_file.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(from_file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            end = os.lseek(from_file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(from_file.fileno(), min(_CHUNK, end - at), at)
                if not data:
                    raise OSError(errno.EIO, "the disk was truncated during the copy", str(source))
                at += os.pwrite(to_file.fileno(), data, at)


def _cannot_clone(source: Path, folder: Path, reason: str) -> ImageError:
    full = os.strerror(errno.ENOSPC) in reason
    return ImageError(f"cannot clone {source} into {folder}: {reason}" + (f"\n{about_room(folder)}" if full else ""))


def _new_file(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+")
