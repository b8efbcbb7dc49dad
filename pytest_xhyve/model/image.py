"""The image: what a guest is cloned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_xhyve.model.machine import DiskFormat


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as its manifest tells.

    Attributes:
        name: the word for it.
        manifest: the file that this was read from; the paths in it are relative to its folder.
        arch: the CPU's architecture, as ``uname -m`` has it.
        disk: the disk that is cloned, never written.
        format: ``raw`` or ``qcow2``.
        size: bytes of the disk's file, or None where the manifest does not tell.
        sha256: of the disk's file, in hexadecimal, or None.
        kernel: a bzImage.
        initrd: its initial RAM disk, or None.
        cmdline: the kernel's command line.
        user: who logs in.
        key: the private key to log in with.
        host_keys: the guest's public keys (``ssh-ed25519 AAAA…``); one of them must be shown.
        cpus: virtual CPUs where nobody asks for more.
        memory: bytes of memory, likewise.
        cpu: the x86-64 level that the userland needs (x86-64 psABI, section 3.1.1).
        made: how the image was made; for people, and to see when a recipe has changed.
    """

    name: str
    manifest: Path
    arch: str
    disk: Path
    format: DiskFormat
    size: int | None
    sha256: str | None
    kernel: Path
    initrd: Path | None
    cmdline: str
    user: str
    key: Path
    host_keys: tuple[str, ...]
    cpus: int
    memory: int
    cpu: str
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)
