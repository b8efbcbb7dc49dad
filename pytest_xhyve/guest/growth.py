"""Grow a guest's root file system, while it is mounted, to the size of its disk.

Nothing is needed in the guest but a shell, ``cat``, ``dd``, ``grep`` and ``stat``: the kernel does it on request
(ioctl(2)), and few systems have the programs that ask it. A system whose root file system is on a logical volume has
the program ``lvm``, which knows LVM's metadata.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_xhyve.formats.partition_growth import HEAD_SECTORS, SECTOR, CannotExtend, extend_partition
from pytest_xhyve.guest.agent import AgentError, Call, RunAsRoot, call, execute_over_ssh
from pytest_xhyve.guest.root_shell import root_shell
from pytest_xhyve.model.architecture import Architecture, architecture_of
from pytest_xhyve.model.errors import NotSupported, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw" (proc(5))
_LOOK = """
cat /proc/self/mountinfo; echo; stat -f -c %S /
grep -s . /sys/class/block/*/dev /sys/class/block/*/partition /sys/class/block/*/start /sys/class/block/*/size
grep -s . /sys/class/block/dm-*/dm/uuid
for slave in /sys/class/block/dm-*/slaves/*; do echo "$slave"; done
"""
# $0 is the device of the physical volume, $1 that of the file system, as in /sys/class/block.
_GROW_VOLUME = """
PATH=$PATH:/usr/sbin:/sbin
command -v lvm >/dev/null || { echo "there is no program lvm in the guest" >&2; exit 1; }
volume=/dev/mapper/$(cat "/sys/class/block/$1/dm/name")
lvm pvresize "/dev/$0" >/dev/null || exit
free=$(lvm lvs --noheadings --options vg_free_count "$volume") || exit
[ $((free)) = 0 ] || lvm lvextend --extents +100%FREE "$volume" >/dev/null || exit
cat "/sys/class/block/$1/size"
"""
_MOUNT = re.compile(r"^\d+ \d+ (\d+:\d+) \S+ / .* - (\S+) (\S+) ", re.MULTILINE)
_BLOCK = re.compile(r"^/sys/class/block/([^/]+)/(dev|partition|start|size|dm/uuid):(\S+)$", re.MULTILINE)
_SLAVE = re.compile(r"^/sys/class/block/(dm-\d+)/slaves/(\w+)$", re.MULTILINE)
_DIGITS = re.compile(r"[0-9]{1,15}")
_MAX_PARTITION = 255
_DISK = "vda"

# arch/x86/entry/syscalls/syscall_64.tbl, fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h and xfs_format.h,
# include/uapi/linux/btrfs.h and blkpg.h in Linux
_IOCTL = 16
_EXT4_IOC_RESIZE_FS = 0x40086610
_XFS_IOC_FSGROWFSDATA = 0x4010586E
_XFS_IMAXPCT_AT = 127
_BTRFS_IOC_RESIZE = 0x50009403
_BLKPG, _BLKPG_RESIZE_PARTITION = 0x1269, 3
# The descriptors of what the agent holds open.
_ROOT_FD, _DISK_FD = 3, 4


@dataclass(frozen=True, slots=True)
class _Root:
    """Where the root file system is.

    Attributes:
        kind: the file system's type.
        device: the name of its device in ``/dev``, or of the physical volume that its logical volume is on.
        block: the size of its blocks, in bytes.
        partition: the device's number, or None if it is the whole disk.
        start: the partition's first sector.
        sectors: the sectors of the device.
        disk_sectors: the sectors of the disk.
        logical: the name of the logical volume's device, such as ``dm-0``; None without LVM.
    """

    kind: str
    device: str
    block: int
    partition: int | None
    start: int
    sectors: int
    disk_sectors: int
    logical: str | None = None


def grow_root(guest: Guest, timeout: float) -> None:
    """Grow the root file system of *guest* to the size of its first disk.

    Args:
        guest: a running guest.
        timeout: the limit of each step, in seconds.

    Raises:
        NotSupported: the plugin cannot grow this kind of root file system; the message states the reason.
        XhyveError: the guest refused.
    """
    try:
        _grow(root_shell(guest, timeout), architecture_of(guest.image.arch))
    except (CannotExtend, _Unknown) as error:
        raise NotSupported(
            f"cannot grow the root file system of guest {guest.name} (disk_size=): {error}\n"
            "  leave disk_size out, or grow the image itself; disks=[…] gives a guest more room, too"
        ) from error
    except (XhyveError, AgentError) as error:
        raise XhyveError(f"cannot grow the root file system of guest {guest.name} (disk_size=): {error}") from error


def _grow(run_as_root: RunAsRoot, architecture: Architecture) -> None:
    root = _parse_root(run_as_root(f"{_LOOK}true", b""))
    sectors = root.sectors
    if root.partition is not None:
        head = _read_sectors(run_as_root, _DISK, HEAD_SECTORS)
        extension = extend_partition(head, root.partition, root.disk_sectors)
        for at, content in extension.writes:
            run_as_root(f"dd of=/dev/{_DISK} bs={SECTOR} seek={at} conv=notrunc,fsync 2>/dev/null", content)
        sectors = extension.sectors
        request = _resize_partition(root, sectors)
        _execute(run_as_root, architecture, "the kernel to use the larger partition", request)
    if root.logical is not None:
        arguments = f"{root.device} {root.logical}"
        sectors = _sectors(run_as_root(f"sh -c {shlex.quote(_GROW_VOLUME)} {arguments}", b""))
    _execute(run_as_root, architecture, f"{root.kind} to grow", _grow_file_system(root, sectors, run_as_root))
    # A power cut would lose what the kernel has not written yet.
    run_as_root("sync", b"")


def _execute(run_as_root: RunAsRoot, architecture: Architecture, purpose: str, request: Call) -> None:
    (result,) = execute_over_ssh(run_as_root, architecture, [request], ("/", f"/dev/{_DISK}"))
    if result < 0:
        raise XhyveError(f"cannot get {purpose}: {os.strerror(-result)}")


def _grow_file_system(root: _Root, sectors: int, run_as_root: RunAsRoot) -> Call:
    """What asks the kernel to grow the file system to *sectors*."""
    blocks = sectors * SECTOR // root.block
    if root.kind == "ext4":
        return call("ioctl", _ROOT_FD, _EXT4_IOC_RESIZE_FS, struct.pack("<Q", blocks))
    if root.kind == "btrfs":
        return call("ioctl", _ROOT_FD, _BTRFS_IOC_RESIZE, struct.pack("<q4088s", 0, b"max"))
    device = root.logical or root.device
    superblock = _read_sectors(run_as_root, device, 1)
    if not superblock.startswith(b"XFSB"):
        raise _Unknown(f"/dev/{device} does not begin with XFS")
    # struct xfs_growfs_data: newblocks, imaxpct, which stays
    request = struct.pack("<QI4x", blocks, superblock[_XFS_IMAXPCT_AT])
    return call("ioctl", _ROOT_FD, _XFS_IOC_FSGROWFSDATA, request)


def _read_sectors(run_as_root: RunAsRoot, device: str, count: int) -> bytes:
    """The first *count* sectors of a device."""
    data = os.fsencode(run_as_root(f"dd if=/dev/{device} bs={SECTOR} count={count} 2>/dev/null", b""))
    if len(data) != count * SECTOR:
        raise _Unknown(f"the guest sent {len(data)} bytes of /dev/{device} instead of {count * SECTOR}")
    return data


def _sectors(output: str) -> int:
    try:
        return _number(output.strip())
    except ValueError as error:
        raise _Unknown("the guest does not show the size of the logical volume") from error


def _number(text: str) -> int:
    """The number *text*, which the guest sent, as it fits into the kernel's structures.

    Raises:
        ValueError: it is not such a number.
    """
    if not _DIGITS.fullmatch(text):
        raise ValueError(text)
    return int(text)


class _Unknown(Exception):
    """A root file system that this module cannot grow; the message states the reason."""


def _parse_root(output: str) -> _Root:
    """The root file system, from the output of the lines in `_LOOK`."""
    mounts, _, rest = output.partition("\n\n")
    # What was mounted last is on top.
    found = _MOUNT.findall(f"{mounts}\n")
    block, _, blocks = rest.partition("\n")
    if not found or not _DIGITS.fullmatch(block) or not int(block):
        raise _Unknown("the guest does not show where its root file system is")
    number, kind, source = found[-1]
    devices: dict[str, dict[str, str]] = {}
    for name, key, value in _BLOCK.findall(blocks):
        devices.setdefault(name, {})[key] = value
    # The number of btrfs is not that of its device.
    by_number = (name for name, keys in devices.items() if keys.get("dev") == number)
    name = next(by_number, PurePosixPath(source).name)
    logical = None
    if re.fullmatch(r"dm-\d+", name) and devices[name].get("dm/uuid", "").startswith("LVM-"):
        slaves = [slave for volume, slave in _SLAVE.findall(rest) if volume == name]
        if len(slaves) != 1:
            raise _Unknown(f"its logical volume {source} is on {len(slaves)} devices ({', '.join(slaves)})")
        logical, name = name, slaves[0]
    if name != _DISK and not re.fullmatch(rf"{_DISK}\d+", name):
        raise _Unknown(f"it is on {source}, not on /dev/{_DISK} or a partition of it")
    if kind not in ("ext4", "xfs", "btrfs"):
        raise _Unknown(f"it is {kind}; the plugin can grow ext4, XFS and btrfs")
    try:
        partition = None if name == _DISK else _number(devices[name]["partition"])
        if partition is not None and partition > _MAX_PARTITION:
            raise ValueError(partition)
        return _Root(
            kind=kind,
            device=name,
            block=int(block),
            partition=partition,
            start=0 if name == _DISK else _number(devices[name]["start"]),
            sectors=_number(devices[name]["size"]),
            disk_sectors=_number(devices[_DISK]["size"]),
            logical=logical,
        )
    except (KeyError, ValueError) as error:
        raise _Unknown(f"the guest does not show the size of /dev/{name}") from error


def _resize_partition(root: _Root, sectors: int) -> Call:
    assert root.partition is not None
    # struct blkpg_partition: start, length, pno, devname, volname
    partition = struct.pack("<qqi64s64s4x", root.start * SECTOR, sectors * SECTOR, root.partition, b"", b"")

    def request(address: int) -> bytes:
        # struct blkpg_ioctl_arg: op, flags, datalen, data
        head = struct.Struct("<iii4xQ")
        return head.pack(_BLKPG_RESIZE_PARTITION, 0, len(partition), address + head.size) + partition

    return call("ioctl", _DISK_FD, _BLKPG, request)
