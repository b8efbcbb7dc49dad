"""The partition table of a disk with one partition."""

from __future__ import annotations

import struct

SECTOR = 512
FIRST = 1 << 20
"""Where the partition begins: at 1 MiB, as sfdisk and parted align it."""

_LINUX = 0x83
# In the place of a cylinder, head and sector: too far for such an address, use the number of the sector.
_NO_CHS = b"\xfe\xff\xff"


def master_boot_record(size: int, signature: int) -> bytes:
    """The first sector of a disk whose one partition goes from `FIRST` to the end.

    The format is in the UEFI Specification 2.10, section 5.2.1 ("Legacy Master Boot Record"); Linux reads it in
    block/partitions/msdos.c. There is no boot code in it: the hypervisor loads the kernel.

    Args:
        size: of the disk, in bytes.
        signature: tells disks apart (``root=PARTUUID=``); 32 bits.
    """
    # BootIndicator StartingCHS OSType EndingCHS StartingLBA SizeInLBA
    partition = struct.pack("<B3sB3sII", 0, _NO_CHS, _LINUX, _NO_CHS, FIRST // SECTOR, (size - FIRST) // SECTOR)
    # BootCode UniqueMBRDiskSignature Unknown PartitionRecord[4] Signature
    return struct.pack("<440xI2x64sH", signature, partition, 0xAA55)
