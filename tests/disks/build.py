"""The disks: how each is laid out, and where it is kept once it was built."""

from __future__ import annotations

import hashlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from filelock import FileLock

from disks import layouts, trees
from disks.layouts import MIB, fill, grub_config, loop_device, make_file_system, mounted, write
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home

DIGEST = "sha256"
"""The file beside a disk with the digest that the disk had when it was new."""

_FOLDER = "test-disks"
_SIZE = 3 << 30


@dataclass(frozen=True, slots=True)
class TestDisk:
    """A disk as it comes from elsewhere.

    Attributes:
        name: the name of its file.
        tree: its system.
        format: as qemu-img names it.
        layout: makes a raw disk of an archive.
    """

    __test__ = False  # It is not a class of tests.

    name: str
    tree: trees.Tree
    format: str
    layout: Callable[[Path, Path], None]


def find(name: str, home: Home) -> Path:
    """The disk *name*, one of `DISKS`; it is built if that has not happened yet."""
    disk = DISKS[name]
    folder = home.folder(_FOLDER)
    target = folder / f"{name}-{_digest(trees, layouts, sys.modules[__name__])}" / f"{name}.{disk.format}"
    with FileLock(folder / f"{name}.lock"):
        if not target.exists():
            _remove(folder, f"{name}-*", f".{name}")
            archive = _find_archive(disk.tree, folder)
            workspace = folder / f".{name}"
            workspace.mkdir()
            raw = workspace / f"{name}.raw"
            disk.layout(raw, archive)
            if disk.format != "raw":
                convert = ["qemu-img", "convert", "-f", "raw", "-O", disk.format]
                subprocess.run([*convert, str(raw), str(workspace / target.name)], check=True)
                raw.unlink()
            (workspace / DIGEST).write_text(digest_of(workspace / target.name))
            workspace.rename(target.parent)
    return target


def _find_archive(tree: trees.Tree, folder: Path) -> Path:
    name = f"tree-of-{tree.name}"
    archive = folder / f"{name}-{_digest(trees)}" / "root.tar"
    with FileLock(folder / f"{name}.lock"):
        if not archive.exists():
            _remove(folder, f"{name}-*", f".{name}")
            workspace = folder / f".{name}"
            workspace.mkdir()
            tree.build(workspace / archive.name)
            workspace.rename(archive.parent)
    return archive


def _remove(folder: Path, *patterns: str) -> None:
    for earlier in [path for pattern in patterns for path in folder.glob(pattern)]:
        shutil.rmtree(earlier)


def _digest(*modules: ModuleType) -> str:
    """Of the source of what builds something: another source builds something else."""
    return hashlib.sha256("".join(inspect.getsource(module) for module in modules).encode()).hexdigest()[:12]


def _cloud(disk: Path, archive: Path) -> None:
    """GPT, GRUB for a BIOS in a partition of its own, ext4."""
    layouts.partition(
        disk, _SIZE, "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\ntype=linux\n"
    )
    with loop_device(disk, 2 * MIB, _SIZE - 3 * MIB) as device:
        _fill_ext4(device, archive, "rw,discard,errors=remount-ro", "ro console=tty0 console=ttyS0,115200")
    layouts.install_grub_bios(disk, MIB, "(,gpt2)/boot/grub")


def _labelled(disk: Path, archive: Path) -> None:
    """MBR, GRUB for a BIOS before the first partition, ext4 whose files have the labels of SELinux."""
    layouts.partition(disk, _SIZE, "label: dos\nstart=2048, type=83, bootable\n")
    with loop_device(disk, MIB) as device:
        _fill_ext4(device, archive, "defaults", "ro quiet security=selinux selinux=1")
        with mounted(device) as top:
            # setfiles(8) reaches the files by /proc/self/fd.
            inside = [
                "unshare",
                "--mount",
                "sh",
                "-c",
                'mount -t proc none "$0/proc" && exec chroot "$0" "$@"',
                str(top),
            ]
            label = ["setfiles", "-m", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/"]
            subprocess.run([*inside, *label], check=True)
    layouts.install_grub_bios(disk, layouts.SECTOR, "(,msdos1)/boot/grub")


def _uefi(disk: Path, archive: Path) -> None:
    """GPT, GRUB for UEFI in the EFI system partition, ext4."""
    layouts.partition(disk, _SIZE, "label: gpt\nstart=2048, size=64MiB, type=uefi\ntype=linux\n")
    with loop_device(disk, 65 * MIB, _SIZE - 66 * MIB) as device:
        uuid = _fill_ext4(device, archive, "defaults", "ro quiet")
    layouts.install_grub_efi(disk, MIB, 64 * MIB, uuid)


def _fill_ext4(device: str, archive: Path, mount_options: str, cmdline: str) -> str:
    """Make *device* the root of a system that GRUB boots; return the UUID of its file system."""
    uuid = make_file_system(device, "mkfs.ext4", "-q")
    kernel = fill(device, archive)
    with mounted(device) as top:
        write(top, "etc/fstab", f"UUID={uuid} / ext4 {mount_options} 0 1\n")
        find_root = f"search --no-floppy --fs-uuid --set=root {uuid}"
        write(top, "boot/grub/grub.cfg", grub_config(kernel, "/boot", f"root=UUID={uuid} {cmdline}", find_root))
    return uuid


def _installed(disk: Path, archive: Path) -> None:
    """MBR, a volume group with swap and an XFS root, GRUB for a BIOS before the first partition."""
    layouts.partition(disk, _SIZE, "label: dos\nstart=2048, type=8e, bootable\n")
    swap, root = 256 * MIB, 2560 * MIB
    with loop_device(disk, MIB) as device:
        layouts.create_volumes(device, "box", {"swap": swap, "root": root})
    extents = 2 * MIB  # Where the first volume is: LVM's own data takes 1 MiB of the partition.
    with loop_device(disk, extents, swap) as device:
        make_file_system(device, "mkswap", "--quiet")
    with loop_device(disk, extents + swap, root) as device:
        uuid = make_file_system(device, "mkfs.xfs", "-q")
        kernel = fill(device, archive)
        with mounted(device) as top:
            write(top, "etc/fstab", "/dev/mapper/box-root / xfs defaults 0 0\n/dev/mapper/box-swap none swap sw 0 0\n")
            find_root = f"search --no-floppy --fs-uuid --set=root {uuid}"
            cmdline = "root=/dev/mapper/box-root ro quiet"
            write(top, "boot/grub/grub.cfg", grub_config(kernel, "/boot", cmdline, find_root))
    layouts.install_grub_bios(disk, layouts.SECTOR, "(lvm/box-root)/boot/grub")


def _subvolumes(disk: Path, archive: Path) -> None:
    """MBR, btrfs with the system in the subvolume @ and home folders in @home."""
    layouts.partition(disk, _SIZE, "label: dos\nstart=2048, type=83, bootable\n")
    with loop_device(disk, MIB) as device:
        uuid = make_file_system(device, "mkfs.btrfs", "-q")
        with mounted(device) as top:
            for name in ("@", "@home"):
                subprocess.run(["btrfs", "-q", "subvolume", "create", top / name], check=True)
        kernel = fill(device, archive, "subvol=@")
        with mounted(device) as top:
            options = "0 0\n"
            write(
                top / "@",
                "etc/fstab",
                f"UUID={uuid} / btrfs subvol=@ {options}UUID={uuid} /home btrfs subvol=@home {options}",
            )
            shutil.copytree(top / "@" / "home", top / "@home", dirs_exist_ok=True, symlinks=True)
            find_root = f"search --no-floppy --fs-uuid --set=root {uuid}"
            cmdline = f"root=UUID={uuid} ro rootflags=subvol=@ quiet"
            write(top / "@", "boot/grub/grub.cfg", grub_config(kernel, "/@/boot", cmdline, find_root))
    layouts.install_grub_bios(disk, layouts.SECTOR, "(,msdos1)/@/boot/grub")


DISKS = {
    disk.name: disk
    for disk in (
        TestDisk("cloud", trees.CLOUD, "qcow2", _cloud),
        TestDisk("installed", trees.INSTALLED, "raw", _installed),
        TestDisk("uefi", trees.CLOUD, "qcow2", _uefi),
        TestDisk("subvolumes", trees.INSTALLED, "vmdk", _subvolumes),
        TestDisk("labelled", trees.LABELLED, "qcow2", _labelled),
    )
}
"""The disks, by name."""
