"""A disk that boots by its own boot loader, by BIOS and by UEFI: tiny, with GRUB from Debian's packages.

One for arm64 boots by UEFI only.
"""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import yaml

from pytest_xhyve.formats.mbr import FIRST, SECTOR
from pytest_xhyve.model.image import Image

_GRUB = Path("/usr/lib/grub")
_PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
_MIB = 1 << 20
_ESP_BYTES = 4 * _MIB
_ESP = 0xEF
# Of the first sector, what comes before the disk's signature is the boot loader's.
_BOOT_CODE_BYTES = 440
_MODULES = ("part_msdos", "ext2", "linux", "boot")
_CONFIG = """\
set root=(hd0,msdos1)
linux /{folder}/{kernel} {cmdline}
initrd /{folder}/initrd.img
boot
"""


def fetch_modules(folder: Path) -> Path:
    """Fetch GRUB's modules for arm64, which hosts of x86-64 cannot install, into *folder*; return where they are."""
    # fmt: off
    _tool(
        "mmdebstrap", "--mode=unshare", "--variant=extract", "--skip=check/qemu",
        "--architectures=arm64", "--include=grub-efi-arm64-bin", '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/*", "--dpkgopt=path-include=/usr/lib/grub/*",
        "bookworm", str(folder / "grub.tar"),
    )
    # fmt: on
    with tarfile.open(folder / "grub.tar") as archive:
        archive.extractall(folder, [each for each in archive if "/usr/lib/grub/" in each.name], filter="data")
    return folder / "usr/lib/grub/arm64-efi"


def build_boot_disk(
    image: Image, folder: Path, cmdline: str | None = None, *, boot: str = "boot", modules: Path | None = None
) -> Path:
    """Build the disk in *folder*, and return its manifest, which has no kernel.

    Args:
        image: the image ``tiny-partitioned``, or that for arm64.
        folder: gets the disk and the manifest.
        cmdline: the kernel's command line; None for the image's.
        boot: the folder of the kernel on the disk.
        modules: GRUB's modules for arm64, if *image* is one of it.
    """
    disk = folder / "bootable.img"
    _tool("cp", "--sparse=always", str(image.disk), str(disk))
    disk.chmod(0o600)
    partition = f"{disk}?offset={FIRST}"
    listing = _tool("debugfs", "-R", "ls -p /boot", partition)
    kernel = next(name for name in listing.split("/") if name.startswith("vmlinuz-"))
    if boot != "boot":
        _tool("debugfs", "-w", "-R", f"mkdir /{boot}", partition)
        _tool("debugfs", "-w", "-R", f"ln /boot/{kernel} /{boot}/{kernel}", partition)
        _tool("debugfs", "-w", "-R", f"unlink /boot/{kernel}", partition)
    _tool("debugfs", "-w", "-R", f"write {image.initrd} /{boot}/initrd.img", partition)
    cmdline = image.cmdline if cmdline is None else cmdline
    config = _CONFIG.format(folder=boot, kernel=kernel, cmdline=cmdline)
    if modules is None:
        core = _core(folder, _GRUB / "i386-pc", config, "biosdisk")
        efi, name = _core(folder, _GRUB / "x86_64-efi", config), "BOOTX64.EFI"
    else:
        core, efi, name = None, _core(folder, modules, config), "BOOTAA64.EFI"
    with disk.open("r+b") as file:
        if core is not None:
            file.write((_GRUB / "i386-pc" / "boot.img").read_bytes()[:_BOOT_CODE_BYTES])
            # It reads the rest from the second sector on, before the first partition.
            assert core.stat().st_size <= FIRST - SECTOR
            file.seek(SECTOR)
            file.write(core.read_bytes())
        start = file.seek(0, 2)
        file.write(_efi_system_partition(folder, efi, name))
    script = f"start={start // SECTOR}, size={_ESP_BYTES // SECTOR}, type={_ESP:x}\n"
    subprocess.run(
        ["sfdisk", "--quiet", "--append", str(disk)],
        input=script,
        text=True,
        check=True,
        capture_output=True,
        env=_PATH,
    )
    manifest = folder / "bootable.yaml"
    content = {
        "disk": disk.name,
        "arch": image.arch,
        "firmware": "bios" if modules is None else "uefi",
        "user": image.user,
        "key": str(image.key),
        "host_keys": list(image.host_keys),
        "memory": "256M",
    }
    manifest.write_text(yaml.safe_dump(content))
    return manifest


def _core(folder: Path, directory: Path, config: str, *modules: str) -> Path:
    """GRUB with its modules, which are in *directory*, and its configuration in one file."""
    target = directory.name
    written, core = folder / f"{target}.cfg", folder / f"{target}.img"
    written.write_text(config)
    where = ("-O", target, "-d", str(directory))
    _tool("grub-mkimage", *where, "-c", str(written), "-p", "/", "-o", str(core), *_MODULES, *modules)
    return core


def _efi_system_partition(folder: Path, efi: Path, name: str) -> bytes:
    fat = folder / "esp.img"
    with fat.open("wb") as file:
        file.truncate(_ESP_BYTES)
    _tool("mformat", "-i", str(fat), "::")
    _tool("mmd", "-i", str(fat), "::/EFI", "::/EFI/BOOT")
    # The path of removable media (UEFI Specification 2.10, section 3.5.1.1).
    _tool("mcopy", "-i", str(fat), str(efi), f"::/EFI/BOOT/{name}")
    return fat.read_bytes()


def _tool(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, env=_PATH).stdout
