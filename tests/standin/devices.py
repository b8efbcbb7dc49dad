"""The part of a device's configuration that is text: disks, network interfaces, serial ports, the UUID.

xhyve looks at it only when it makes the device, after the command line was read whole.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from standin.cnumbers import scan_decimals, scan_hex, scan_hex_field
from standin.commandline import Build, Ended

BlockEmulation = Literal["virtio-blk", "ahci-hd", "ahci-cd"]

# strerror(0) on macOS: what perror adds where no call of the system has failed.
_NO_ERROR = "Undefined error: 0"
# sscanf's "%8x-%4hx-%4hx-%2hhx%2hhx-%2hhx%2hhx%2hhx%2hhx%2hhx%2hhx": digits, and what stands before them.
_UUID_FIELDS = ((8, ""), (4, "-"), (4, "-"), (2, "-"), (2, ""), (2, "-"), (2, ""), (2, ""), (2, ""), (2, ""), (2, ""))


class SegmentationFault(Exception):
    """The program ends by SIGSEGV."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The configuration of a block device.

    Attributes:
        sector_sizes: logical and physical, None to take the file's; not checked yet.
    """

    path: str
    read_only: bool = False
    sync: bool = False
    sector_sizes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """The configuration of a virtio-net; *mac* is None where vmnet chooses it."""

    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """One thing that a serial port is connected to; *path* is that of a tty, a log or the file for a pty's name."""

    kind: Literal["stdio", "autopty", "tty", "null", "log", "asl"]
    path: str | None = None


def parse_disk(config: str | None, build: Build, emulation: BlockEmulation = "virtio-blk") -> Disk:
    """Read what is known of a disk before it is opened.

    hyperkit is one that was built without OCaml, hence without qcow2.

    Raises:
        Ended: nothing was given, or an option that is none.
    """
    if config is None:
        if emulation == "virtio-blk":
            raise Ended(1, stdout="virtio-block: backing device required\n")
        raise Ended(1, stderr="pci_ahci: backing device required\n")
    path, *options = config.split(",")
    read_only = emulation == "ahci-cd" and build == "hyperkit"
    sync = uncached = False
    sector_sizes = (0, 0)
    for option in options:
        if option == "nocache":
            uncached = True
        elif option in {"sync", "direct"}:
            sync = True
        elif option == "ro":
            read_only = True
        elif option.startswith("sectorsize=") and (sizes := scan_decimals(option[len("sectorsize=") :], "/", 2)):
            sector_sizes = sizes[0], sizes[-1]
        else:
            raise disk_failure(f'Invalid device option "{option}"', emulation)
    if uncached:
        raise disk_failure(f"xhyve: nocache support unimplemented: {_NO_ERROR}", emulation)
    return Disk(path, read_only, sync, sector_sizes if sector_sizes[0] else None)


def check_sector_sizes(disk: Disk, emulation: BlockEmulation = "virtio-blk") -> None:
    """See that sectors can have the sizes that were asked for, which is done once the file was opened.

    Raises:
        Ended: they cannot.
    """
    if disk.sector_sizes is None:
        return
    logical, physical = disk.sector_sizes
    if (logical - 1) & logical or (physical - 1) & physical or not 512 <= logical <= physical:
        raise disk_failure(f"Invalid sector size {logical}/{physical}", emulation)


def disk_failure(message: str, emulation: BlockEmulation, error: str = _NO_ERROR) -> Ended:
    """The end of a program whose disk fails with *message*; *error* is what errno stands for.

    The caller of src/block_if.c in xhyve's sources has something to say about every failure, if it is virtio-blk.
    """
    again = f"Could not open backing file: {error}\n" if emulation == "virtio-blk" else ""
    return Ended(1, stderr=f"{message}\n{again}")


def parse_nic(config: str | None, build: Build) -> Nic:
    """Read the configuration of a virtio-net, which only hyperkit looks at.

    Raises:
        SegmentationFault: it has no second word.
        Ended: the address is none that a card can have.
    """
    if config is None or build != "hyperkit":
        return Nic()
    # The first word was once the name of a tap.
    _, comma, rest = config.partition(",")
    if not comma:
        raise SegmentationFault
    name, equals, text = rest.partition("=")
    if name != "mac" or not equals:
        return Nic()
    numbers = scan_hex(text, ":", 6)
    mac = bytes(number & 0xFF for number in numbers)
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        raise Ended(1, stderr=f"Invalid MAC address: {text}\n")
    return Nic(mac)


def check_backend(
    backend: str | None,
    build: Build,
    where: str = "LPC device COM1",
    *,
    stdio_taken: bool = False,
) -> tuple[Backend, ...]:
    """Tell what a serial port is to be connected to: nothing, one thing, or what hyperkit's list names.

    What is no word of *build* is the path of a tty. That it is a device is seen here, without opening it; whether it is
    a tty the caller sees, who raises ``backend_failure`` otherwise.

    Args:
        backend: all after the comma of ``-l com1,``, or the config of a uart.
        build: whose words are understood.
        where: what the message calls the port.
        stdio_taken: another port has it already.

    Raises:
        Ended: there can be no such backend.
    """
    if backend is None:
        return ()
    found = []
    for word in backend.split(",") if build == "hyperkit" else [backend]:
        one = _backend(word, build, stdio_taken=stdio_taken)
        if one is None:
            raise backend_failure(backend, build, where)
        found.append(one)
        stdio_taken |= one.kind == "stdio"
    # A log goes beside something else: alone it leaves the result at the error that it starts with.
    if all(one.kind == "log" for one in found):
        raise backend_failure(backend, build, where)
    return tuple(found)


def backend_failure(backend: str, build: Build, where: str = "LPC device COM1") -> Ended:
    """The end of a program whose serial port has no backend."""
    # hyperkit has cut the text at its first comma by then.
    shown = backend.partition(",")[0] if build == "hyperkit" else backend
    return Ended(1, stderr=f"Unable to initialize backend '{shown}' for {where}\n")


def _backend(word: str, build: Build, *, stdio_taken: bool) -> Backend | None:
    if word == "stdio" and not stdio_taken:
        return Backend("stdio")
    if word == "autopty" and build != "v0.2.0":
        return Backend("autopty")
    if build == "hyperkit":
        if word == "null":
            return Backend("null")
        if word == "asl":
            return Backend("asl")
        if word.startswith("autopty="):
            return Backend("autopty", word.removeprefix("autopty="))
        if word.startswith("log="):
            return Backend("log", word.removeprefix("log="))
    try:
        return Backend("tty", word) if stat.S_ISCHR(Path(word).stat().st_mode) else None
    except OSError:
        return None


def parse_uuid(text: str) -> bytes | None:
    """Read a UUID as include/xhyve/support/uuid.h in xhyve's sources does; no text at all is the nil UUID.

    Returns:
        The 16 bytes that vmnet is given, the time fields in the byte order of the host; None for what is no UUID.
    """
    if not text:
        return bytes(16)
    if len(text.encode(errors="surrogateescape")) != 36 or text[8] != "-":
        return None
    found = b""
    place = 0
    for width, before in _UUID_FIELDS:
        if not text.startswith(before, place):
            return None
        scanned = scan_hex_field(text, place + len(before), width)
        if scanned is None:
            return None
        number, place = scanned
        found += number.to_bytes(width // 2, "little")
    # Variants 0, 1 and 2; there is no other but the one that is reserved.
    return None if found[8] & 0xE0 == 0xE0 else found
