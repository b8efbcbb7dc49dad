"""What a hypervisor is asked to run: plain data, from which it makes its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

DiskFormat = Literal["raw", "qcow2"]


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the machine, written by it."""

    path: Path
    format: DiskFormat = "raw"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card whose guest side answers on the TCP ports *forward* (22 is SSH).

    The address *mac* is None where the hypervisor has not told it yet.
    """

    mac: str | None
    forward: tuple[int, ...] = (22,)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is about to be started.

    Attributes:
        name: a word of letters, digits, dots and dashes.
        uuid: the SMBIOS UUID.
        cpus: how many virtual CPUs.
        cpu: what the userland needs of a CPU, in the x86-64 psABI's words (``x86-64-v2``).
        memory: bytes of RAM.
        disks: in the order in which the guest numbers them (``/dev/vda``, ``/dev/vdb``, …).
        nics: in the order in which the guest numbers them.
        kernel: a Linux bzImage, loaded without a boot loader.
        initrd: the initial RAM disk, or None.
        cmdline: the kernel's command line.
        cdroms: ISO files, each in a drive of its own behind an AHCI controller.
    """

    name: str
    uuid: UUID
    cpus: int
    cpu: str
    memory: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    kernel: Path
    initrd: Path | None
    cmdline: str
    cdroms: tuple[Path, ...] = ()
