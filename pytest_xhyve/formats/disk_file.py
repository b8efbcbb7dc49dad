"""The format of a disk's file, by its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 0x10048
"""How much of a file `identify` reads: up to the magic number of btrfs."""

_MBR_SIGNATURE = (510, b"\x55\xaa")

# Offset and bytes of each magic number, with the format's name as QEMU writes it (qemu-img(1)).
_DISK_FORMATS = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
)
# (RFC 1952, section 2.3.1; the .xz file format 1.2.1, section 2.1.1.1; RFC 8878, section 3.1.1)
_COMPRESSIONS = ((0, b"\x1f\x8b", "gzip"), (0, b"\xfd7zXZ\x00", "xz"), (0, b"\x28\xb5\x2f\xfd", "zstd"))
# What a raw disk begins with: a partition table, or a file system or volume on the whole disk (libblkid's probes).
_RAW_CONTENTS = (
    (*_MBR_SIGNATURE, "a partition table"),
    (512, b"EFI PART", "a partition table"),
    (1080, b"\x53\xef", "ext4"),
    (0, b"XFSB", "XFS"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (512, b"LABELONE", "LVM"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"hsqs", "squashfs"),
)
_NO_DISKS = (
    (0x8001, b"CD001", "the ISO file of a CD or an installer"),
    (257, b"ustar", "a tar archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"BZh", "a file that bzip2 has compressed"),
    (0, b"\x7fELF", "a program"),
    (0, b"\xff\xd8\xff", "a picture"),
    (0, b"\x89PNG", "a picture"),
    (0, b"%PDF", "a PDF document"),
)


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


def identify(head: bytes) -> FileKind:
    """What the file is that begins with *head*.

    Args:
        head: its first `HEAD_BYTES`, or the whole of a shorter file.
    """
    for kind, table in (("disk", _DISK_FORMATS), ("compressed", _COMPRESSIONS)):
        for offset, magic, name in table:
            if head.startswith(magic, offset):
                return FileKind("disk" if kind == "disk" else "compressed", name)
    # A hybrid ISO file has a boot sector too, so it has to be recognized first.
    for offset, magic, name in (_NO_DISKS[0], *_RAW_CONTENTS):
        if head.startswith(magic, offset):
            return FileKind("other", name) if magic == b"CD001" else FileKind("disk", "raw")
    for offset, magic, name in _NO_DISKS:
        if head.startswith(magic, offset):
            return FileKind("other", name)
    if not head:
        return FileKind("other", "an empty file")
    if not head.strip(b"\0"):
        return FileKind("other", "a file of zeros, without a partition table and without a file system")
    start = head[:200]
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        first = start.decode("ascii").splitlines()[0][:40]
        return FileKind("other", f"a text file that begins with {first!r}")
    return FileKind("other", f"a file that begins with the bytes {head[:8].hex(' ')}")
