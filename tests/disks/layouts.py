"""Partition tables, volumes, file systems and boot loaders on a disk file."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECTOR = 512
MIB = 1 << 20
GRUB_BIOS = Path("/usr/lib/grub/i386-pc")
_GRUB_MODULES = (
    *("part_gpt", "part_msdos", "lvm", "ext2", "xfs", "btrfs"),
    *("normal", "configfile", "linux", "search", "search_fs_uuid", "echo", "ls"),
)


def partition(disk: Path, size: int, table: str) -> None:
    """Make *disk* a file of *size* bytes with the partition *table*, in the words of sfdisk(8)."""
    with disk.open("xb") as file:
        file.truncate(size)
    _tool("sfdisk", "--quiet", str(disk), input=table)


@contextmanager
def loop_device(disk: Path, offset: int = 0, size: int | None = None) -> Iterator[str]:
    """A part of *disk* as a block device: *size* bytes from *offset* on, or all of the rest."""
    limit = [] if size is None else ["--sizelimit", str(size)]
    device = _tool("losetup", "--find", "--show", "--offset", str(offset), *limit, str(disk)).strip()
    try:
        yield device
    finally:
        _tool("losetup", "--detach", device)


@contextmanager
def mounted(device: str, options: str = "defaults") -> Iterator[Path]:
    """The file system on *device*, at a folder of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="disk-"))
        _tool("mount", "-o", options, device, folder)
        stack.callback(_tool, "umount", folder)
        yield Path(folder)


def fill(device: str, archive: Path, options: str = "defaults") -> str:
    """Unpack *archive* into the file system on *device*; return the version of its kernel."""
    with mounted(device, options) as top:
        _tool("tar", "-C", str(top), "--numeric-owner", "--exclude=./dev/*", "-xpf", str(archive))
        return next((top / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")


def create_volumes(device: str, group: str, volumes: Mapping[str, int]) -> None:
    """Make *device* the volume group *group* with *volumes* of these sizes, one after the other.

    Without device-mapper, which a container's host may lack: volumes are written and not activated.
    """
    config = "devices{use_devicesfile=0} backup{backup=0 archive=0}"
    options = ["--quiet", "--driverloaded", "n", "--devices", device, "--config", config]
    _tool("pvcreate", *options, device)
    _tool("vgcreate", *options, group, device)
    new = ["lvcreate", *options, "--activate", "n", "--zero", "n", "--wipesignatures", "n"]
    for name, size in volumes.items():
        _tool(*new, "--size", f"{size}b", "--name", name, group)


def install_grub_bios(disk: Path, at: int, prefix: str) -> None:
    """Install GRUB for a BIOS: its first sector into the disk's, and the rest at the byte *at*.

    The two sectors state where the next one is, as GRUB's ``include/grub/i386/pc/boot.h`` and
    ``grub-core/boot/i386/pc/diskboot.S`` describe; grub-bios-setup would need the partitions as block devices.
    """
    with tempfile.TemporaryDirectory() as folder:
        core = Path(folder) / "core.img"
        _tool("grub-mkimage", "-O", "i386-pc", "-p", prefix, "-o", str(core), "biosdisk", *_GRUB_MODULES)
        rest = bytearray(core.read_bytes())
    first = bytearray((GRUB_BIOS / "boot.img").read_bytes())
    first[0x5C:0x64] = struct.pack("<Q", at // SECTOR)
    rest[500:508] = struct.pack("<Q", at // SECTOR + 1)
    with disk.open("r+b") as file:
        file.write(first[:440])
        file.seek(at)
        file.write(rest)


def install_grub_efi(disk: Path, at: int, size: int, root_uuid: str) -> None:
    """Install GRUB for UEFI as the program that a firmware starts by default, on a new FAT file system.

    The file system takes *size* bytes from the byte *at* on. mtools writes it: a host may be unable to mount FAT.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "early.cfg").write_text(
            f"search --no-floppy --fs-uuid --set=root {root_uuid}\nset prefix=($root)/boot/grub\n"
        )
        program = folder / "BOOTX64.EFI"
        options = ["-O", "x86_64-efi", "-p", "/boot/grub", "-c", str(folder / "early.cfg"), "-o", str(program)]
        _tool("grub-mkimage", *options, "fat", *_GRUB_MODULES)
        partition_file = folder / "esp"
        with partition_file.open("xb") as file:
            file.truncate(size)
        _tool("mkfs.vfat", str(partition_file))
        _tool("mmd", "-i", str(partition_file), "::/EFI", "::/EFI/BOOT")
        _tool("mcopy", "-i", str(partition_file), str(program), "::/EFI/BOOT/BOOTX64.EFI")
        with disk.open("r+b") as file:
            file.seek(at)
            file.write(partition_file.read_bytes())


def grub_config(kernel: str, folder: str, cmdline: str, find: str) -> str:
    """A ``grub.cfg`` with one entry: *folder* is where GRUB sees /boot, *find* the command that sets its root."""
    return (
        "set timeout=0\n"
        f"menuentry 'Debian GNU/Linux' {{\n\t{find}\n"
        f"\tlinux {folder}/vmlinuz-{kernel} {cmdline}\n\tinitrd {folder}/initrd.img-{kernel}\n}}\n"
    )


def write(top: Path, path: str, text: str) -> None:
    """Write a file of the system that is mounted at *top*."""
    target = top / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def make_file_system(device: str, *command: str) -> str:
    """Run mkfs *command* on *device*; return the UUID of the file system."""
    _tool(*command, device)
    return _tool("blkid", "--probe", "--output", "value", "--match-tag", "UUID", device).strip()


def _tool(*argv: str, input: str | None = None) -> str:  # noqa: A002
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        argv, input=input, text=True, check=False, capture_output=True, env={"PATH": path, "LC_ALL": "C"}
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
