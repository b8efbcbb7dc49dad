"""Images that are right in every respect but for not being able to boot."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from pytest_xhyve.images.keys import KeyPair

# A boot sector's end, the magic number, boot protocol 2.12 (Documentation/arch/x86/boot.rst); the rest is nothing.
KERNEL = (b"\0" * 0x1FE + b"\x55\xaa\0\0HdrS\x0c\x02").ljust(1 << 16, b"\0")


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
