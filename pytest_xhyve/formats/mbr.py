"""The first sector of a disk: the partition table of a disk with one partition, and whether a boot loader is there."""

from __future__ import annotations

import struct

SECTOR = 512
FIRST = 1 << 20
"""The first byte of the partition: 1 MiB, the alignment of sfdisk and parted."""

_LINUX = 0x83
_BOOT_CODE = 440
# This cylinder, head and sector mean: the address is too large for this field, use the sector's number.
_NO_CHS = b"\xfe\xff\xff"


def has_boot_loader(sector: bytes) -> bool:
    """Whether a BIOS takes *sector*, the first one of a disk, for a boot loader."""
    return has_signature(sector) and any(sector[:_BOOT_CODE])


def has_signature(sector: bytes) -> bool:
    """Whether *sector*, the first one of a disk, may have a partition table; a disk that boots always has one."""
    return sector[510:512] == b"\x55\xaa"


def master_boot_record(size: int, signature: int) -> bytes:
    """The first sector of a disk that has one partition, from `FIRST` to the end.

    The UEFI Specification 2.10, section 5.2.1 ("Legacy Master Boot Record"), defines the format; Linux reads it in
    block/partitions/msdos.c. The sector does not contain boot code, because the hypervisor loads the kernel.

    Args:
        size: size of the disk, in bytes.
        signature: identifies the disk (``root=PARTUUID=``); 32 bits.
    """
    # BootIndicator StartingCHS OSType EndingCHS StartingLBA SizeInLBA
    partition = struct.pack("<B3sB3sII", 0, _NO_CHS, _LINUX, _NO_CHS, FIRST // SECTOR, (size - FIRST) // SECTOR)
    # BootCode UniqueMBRDiskSignature Unknown PartitionRecord[4] Signature
    return struct.pack("<440xI2x64sH", signature, partition, 0xAA55)
