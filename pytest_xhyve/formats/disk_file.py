"""The format of a disk's file, by its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 0x10048
"""How much of a file `identify` reads: up to the magic number of btrfs."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        kind: ``disk``, ``compressed`` or ``other``.
        name: of a disk, its format as QEMU names it; of a compressed file, the compression; of another file, what it
            is, for a message.
    """

    kind: Literal["disk", "compressed", "other"]
    name: str


_RAW = FileKind("disk", "raw")

# Offset and bytes of each magic number. The first match counts: the ISO file of an installer that also boots from a USB
# stick has a boot sector.
_SIGNATURES = (
    # The formats of disks, as qemu-img(1) names them.
    (0, b"QFI\xfb", FileKind("disk", "qcow2")),
    (0, b"KDMV", FileKind("disk", "vmdk")),
    (0, b"# Disk DescriptorFile", FileKind("disk", "vmdk")),
    (0x40, b"\x7f\x10\xda\xbe", FileKind("disk", "vdi")),
    (0, b"vhdxfile", FileKind("disk", "vhdx")),
    (0, b"conectix", FileKind("disk", "vpc")),
    # RFC 1952, section 2.3.1; the .xz file format 1.2.1, section 2.1.1.1; RFC 8878, section 3.1.1.
    (0, b"\x1f\x8b", FileKind("compressed", "gzip")),
    (0, b"\xfd7zXZ\x00", FileKind("compressed", "xz")),
    (0, b"\x28\xb5\x2f\xfd", FileKind("compressed", "zstd")),
    (0x8001, b"CD001", FileKind("other", "the ISO file of a CD, from which a machine has to be installed first")),
    # A raw disk begins with a partition table (MBR or GPT), or with a file system or volume: ext4, XFS, btrfs, LVM,
    # LUKS, squashfs (libblkid's probes).
    (510, b"\x55\xaa", _RAW),
    (512, b"EFI PART", _RAW),
    (1080, b"\x53\xef", _RAW),
    (0, b"XFSB", _RAW),
    (0x10040, b"_BHRfS_M", _RAW),
    (512, b"LABELONE", _RAW),
    (0, b"LUKS\xba\xbe", _RAW),
    (0, b"hsqs", _RAW),
    (257, b"ustar", FileKind("other", "a tar archive")),
    (0, b"PK\x03\x04", FileKind("other", "a zip archive")),
    (0, b"BZh", FileKind("other", "a file that bzip2 has compressed")),
    (0, b"\x7fELF", FileKind("other", "a program")),
    (0, b"\xff\xd8\xff", FileKind("other", "a picture")),
    (0, b"\x89PNG", FileKind("other", "a picture")),
    (0, b"%PDF", FileKind("other", "a PDF document")),
)


def identify(head: bytes) -> FileKind:
    """What the file is that begins with *head*.

    Args:
        head: its first `HEAD_BYTES`, or the whole of a shorter file.
    """
    for offset, magic, kind in _SIGNATURES:
        if head.startswith(magic, offset):
            return kind
    if not head:
        return FileKind("other", "an empty file")
    if not head.strip(b"\0"):
        return FileKind("other", "a file of zeros, without a partition table and without a file system")
    start = head[:200]
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        first = start.decode("ascii").splitlines()[0][:40]
        return FileKind("other", f"a text file that begins with {first!r}")
    return FileKind("other", f"a file that begins with the bytes {head[:8].hex(' ')}")
