"""The part of a device's configuration that is text: disks and the UUID.

xhyve looks at it only when it makes the device, after the command line was read whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from standin.cnumbers import scan_hex_field
from standin.commandline import Build, Ended, NotSimulated

BlockEmulation = Literal["virtio-blk", "ahci-hd", "ahci-cd"]

# strerror(0) on macOS: what perror adds where no call of the system has failed.
_NO_ERROR = "Undefined error: 0"
# sscanf's "%8x-%4hx-%4hx-%2hhx%2hhx-%2hhx%2hhx%2hhx%2hhx%2hhx%2hhx": digits, and what stands before them.
_UUID_FIELDS = ((8, ""), (4, "-"), (4, "-"), (2, "-"), (2, ""), (2, "-"), (2, ""), (2, ""), (2, ""), (2, ""), (2, ""))


@dataclass(frozen=True, slots=True)
class Disk:
    """The configuration of a block device."""

    path: str
    read_only: bool = False


def parse_disk(config: str | None, build: Build, emulation: BlockEmulation = "virtio-blk") -> Disk:
    """Read what is known of a disk before it is opened.

    Raises:
        Ended: nothing was given.
        NotSimulated: an option but ``ro``.
    """
    if config is None:
        if emulation == "virtio-blk":
            raise Ended(1, stdout="virtio-block: backing device required\n")
        raise Ended(1, stderr="pci_ahci: backing device required\n")
    path, *options = config.split(",")
    if set(options) - {"ro"}:
        raise NotSimulated(f"a disk's options {','.join(options)}")
    return Disk(path, bool(options) or (emulation == "ahci-cd" and build == "hyperkit"))


def disk_failure(message: str, emulation: BlockEmulation, error: str = _NO_ERROR) -> Ended:
    """The end of a program whose disk fails with *message*; *error* is what errno stands for.

    The caller of src/block_if.c in xhyve's sources has something to say about every failure, if it is virtio-blk.
    """
    again = f"Could not open backing file: {error}\n" if emulation == "virtio-blk" else ""
    return Ended(1, stderr=f"{message}\n{again}")


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
