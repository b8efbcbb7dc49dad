"""The ends of the partitions of a raw disk: from the MBR or the GPT."""

from __future__ import annotations

import struct

_SECTOR = 512
_PROTECTIVE = 0xEE


def needed_size(head: bytes) -> int:
    """The bytes that a disk must have, so that all its partitions are inside; 0 if it has no partition table.

    The formats are in the UEFI Specification 2.10, sections 5.2.1 (MBR) and 5.3 (GPT).

    Args:
        head: the first 34 sectors of the disk (17408 bytes) or more.
    """
    if head[510:512] != b"\x55\xaa":
        return 0
    entries = [head[446 + 16 * number :][:16] for number in range(4)]
    table = [(entry[4], *struct.unpack_from("<II", entry, 8)) for entry in entries if len(entry) == 16 and entry[4]]
    if any(kind == _PROTECTIVE for kind, _, _ in table) and head[512:520] == b"EFI PART":
        return _gpt_size(head)
    # A boot sector of FAT or NTFS has the same signature, and code in the place of the table.
    plausible = [(start + count) * _SECTOR for _, start, count in table if start and count]
    return max(plausible, default=0)


def _gpt_size(head: bytes) -> int:
    array, count, size = struct.unpack_from("<QII", head, _SECTOR + 72)
    if not 128 <= size <= 4096 or count > 1024:
        return 0
    ends = []
    for number in range(count):
        entry = head[array * _SECTOR + number * size :][:48]
        if len(entry) == 48 and entry[:16] != bytes(16):
            ends.append((struct.unpack_from("<Q", entry, 40)[0] + 1) * _SECTOR)
    return max(ends, default=0)
