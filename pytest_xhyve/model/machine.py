"""The machine that a hypervisor runs, as plain data; drivers make their command lines from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from pytest_xhyve.model.values import Firmware, Network

DiskFormat = Literal["raw", "qcow2"]

SSH_PORT = 22
"""The TCP port of SSH in every guest."""

CLOSED_PORT = 1
"""A TCP port at which nothing listens in a guest: that of tcpmux (RFC 1078), which no current system installs."""

MAX_LANS = 4
"""How many LANs a guest can be on."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the machine, which the machine writes to."""

    path: Path
    format: DiskFormat = "raw"


@dataclass(frozen=True, slots=True)
class DiskSizes:
    """The sizes of a guest's disks, in bytes.

    Attributes:
        root: the first disk; None leaves it as large as the image's.
        empty: the disks behind it, which are empty.
    """

    root: int | None = None
    empty: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card.

    Attributes:
        mac: the Ethernet address, or None if the hypervisor has not reported it yet.
        forward: the guest's TCP ports that the host can reach.
        network: what the guest can reach; with ``isolated`` and ``none``, it can start no connection.
    """

    mac: str | None
    forward: tuple[int, ...] = (SSH_PORT,)
    network: Network = "nat"


def nic_mac(uuid: UUID) -> str:
    """The Ethernet address of the first card of the machine with this UUID, if the plugin selects it.

    It is a locally administered unicast address (RFC 7042, section 2.1), in QEMU's 52:54 block.
    """
    return "52:54:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[-4:])


def lan_mac(uuid: UUID, number: int) -> str:
    """The Ethernet address of the card *number* for LANs, counted from 0, of the machine with this UUID.

    It is a locally administered unicast address (RFC 7042, section 2.1), and differs from that of all other cards.
    """
    return f"52:{0x55 + number:02x}:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[-4:])


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, before it starts.

    Attributes:
        name: letters, digits, dots and dashes.
        uuid: the SMBIOS UUID.
        cpus: the number of virtual CPUs.
        cpu: the CPU level that the userland needs, a key of `Architecture.emulated_cpus`.
        memory: bytes of RAM.
        disks: the disks, in the order in which the guest numbers them (``/dev/vda``, ``/dev/vdb``, …); the first one
            is the clone of the image's disk.
        nics: the network cards, in the order in which the guest numbers them.
        lan_macs: the Ethernet addresses of further cards, which are for LANs; `MAX_LANS` at most. Their links are down
            until the guest joins a LAN.
        unplugged: the numbers of the disks without which it starts; never 0.
        kernel: a Linux kernel, which the hypervisor loads without a boot loader; only a machine with *firmware* may
            have None.
        initrd: the initial RAM disk, or None.
        cmdline: the kernel's command line.
        cdroms: ISO files, each in its own drive behind an AHCI controller.
        graphics: whether there is a graphics card, so that `Guest.screenshot` works; it has no window.
        firmware: ``bios`` or ``uefi`` starts the boot loader of the first disk, which loads the kernel; *kernel*,
            *initrd* and *cmdline* have no effect then. None loads the kernel directly.
    """

    name: str
    uuid: UUID
    cpus: int
    cpu: str
    memory: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    cdroms: tuple[Path, ...] = ()
    graphics: bool = False
    firmware: Firmware | None = None
    lan_macs: tuple[str, ...] = ()
    unplugged: frozenset[int] = frozenset()
