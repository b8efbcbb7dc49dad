"""The image that guests are cloned from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_xhyve.model.machine import DiskFormat
from pytest_xhyve.model.secret import Secret
from pytest_xhyve.model.values import Firmware

IMAGE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,46}[A-Za-z0-9])?")
"""What the name of an image looks like where it is a part of a path. A manifest may state any text on one line."""


def to_image_name(text: str) -> str:
    """*text* if it is such a name, otherwise a name that is like it; ``image`` if nothing of it can be in a name."""
    if IMAGE_NAME.fullmatch(text):
        return text
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:48].rstrip("-.") or "image"


@dataclass(frozen=True, slots=True)
class Base:
    """What a layer was made over.

    Attributes:
        image: the name of the image under the layer.
        sha256: the digest of each file that the layer's disk is based on, the nearest first.
    """

    image: str
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as its manifest describes it.

    Attributes:
        name: the image's name.
        manifest: the file that this was read from; paths in it are relative to its folder.
        arch: the CPU's architecture, as ``uname -m`` prints it.
        disk: the disk; the plugin clones it and never writes to it.
        format: ``raw`` or ``qcow2``.
        size: bytes of the disk's file, or None if the manifest does not state it.
        sha256: digest of the disk's file, in hexadecimal, or None.
        kernel: a Linux kernel of the machine's architecture; only an image with *firmware* may have None.
        initrd: the initial RAM disk, or None.
        cmdline: the kernel's command line.
        user: the user that the plugin logs in as.
        key: the private key that the plugin logs in with, or None.
        password: the user's password, for the login without a key and for sudo; None if it is not known.
        host_keys: the guest's public host keys (``ssh-ed25519 AAAA…``); the guest must present one of them.
        cpus: virtual CPUs of a guest, unless an option or a marker sets another number.
        memory: bytes of memory of a guest, with the same exception.
        cpu: the CPU level that the userland needs, a key of `Architecture.emulated_cpus`.
        firmware: ``bios`` or ``uefi`` if guests boot by the boot loader of the disk; None if the hypervisor loads the
            kernel.
        distro: the distribution, as ``ID`` of os-release(5) names it, or None.
        version: its version, as ``VERSION_ID`` there, or None.
        init: the init system, for example ``systemd``, or None.
        extends: what the disk is a layer over; None if it is not a layer of a recipe or of a saved guest.
        made: how the image was built, for people; the plugin reads from it whether the recipe has changed.
    """

    name: str
    manifest: Path
    arch: str
    disk: Path
    format: DiskFormat
    size: int | None
    sha256: str | None
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    user: str
    key: Path | None
    host_keys: tuple[str, ...]
    cpus: int
    memory: int
    cpu: str
    firmware: Firmware | None = None
    distro: str | None = None
    version: str | None = None
    init: str | None = None
    extends: Base | None = None
    made: Mapping[str, Any] = field(default_factory=dict, compare=False)
    password: Secret | None = field(default=None, repr=False)
