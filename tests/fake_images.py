"""Images that are right in every respect but for not being able to boot."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import yaml

from pytest_xhyve.images.keys import KeyPair


def make_kernel(
    *, setup_sectors: int = 4, protocol: int = 0x020C, load_flags: int = 1, cmdline_size: int = 2047, init_size: int = 0
) -> bytes:
    """What looks like a bzImage (Documentation/arch/x86/boot.rst); behind its header there is nothing."""
    kernel = bytearray(1 << 16)
    kernel[0x1F1] = setup_sectors
    kernel[0x1FE:0x206] = b"\x55\xaa\0\0HdrS"
    struct.pack_into("<H", kernel, 0x206, protocol)
    kernel[0x211] = load_flags
    struct.pack_into("<I", kernel, 0x238, cmdline_size)
    struct.pack_into("<I", kernel, 0x260, init_size)
    return bytes(kernel)


KERNEL = make_kernel()


def write_image(folder: Path, name: str = "ubuntu18", **changes: Any) -> Path:
    """Write an image's files into *folder* and return its manifest's path."""
    disk = folder / f"{name}.img"
    disk.write_bytes(b"disk" * 1024)
    (folder / "vmlinuz").write_bytes(KERNEL)
    (folder / "initrd").write_bytes(b"initrd")
    key = folder / "key"
    pair = KeyPair.generate()
    key.write_bytes(pair.private)
    key.chmod(0o600)
    content = {
        "disk": disk.name,
        "size": 4096,
        "sha256": hashlib.sha256(disk.read_bytes()).hexdigest(),
        "kernel": "vmlinuz",
        "initrd": "initrd",
        "cmdline": "root=/dev/vda console=ttyS0",
        "user": "root",
        "key": "key",
        "host_keys": [pair.public],
        **changes,
    }
    manifest = folder / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return manifest


def qcow2(path: Path, backing: str = "", *, encryption: int = 0, size: int = 0) -> Path:
    """The header of a qcow2 file (docs/interop/qcow2.txt in QEMU's sources)."""
    header = bytearray(200)
    header[:4] = b"QFI\xfb"
    if backing:
        header[8:20] = (104).to_bytes(8) + len(backing).to_bytes(4)
        header[104 : 104 + len(backing)] = backing.encode()
    header[24:32] = size.to_bytes(8)
    header[32:36] = encryption.to_bytes(4)
    path.write_bytes(header)
    return path
