"""Extend the last partition of a disk that has become larger, in an MBR or a GPT.

The UEFI Specification 2.10 defines the formats: sections 5.2.1 (MBR), 5.2.3 (protective MBR) and 5.3 (GPT).
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass

SECTOR = 512
HEAD_SECTORS = 34
"""The sectors that `extend_partition` has to read: the MBR, the GPT's header, and its usual 128 entries."""

_MBR_ENTRY = struct.Struct("<B3sB3sII")
_MBR_AT = 446
_MBR_MAX = (1 << 32) - 1
_PROTECTIVE = 0xEE
# Signature Revision HeaderSize HeaderCRC32 Reserved MyLBA AlternateLBA FirstUsableLBA LastUsableLBA DiskGUID
# PartitionEntryLBA NumberOfPartitionEntries SizeOfPartitionEntry PartitionEntryArrayCRC32
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ALIGNED = 2048


class CannotExtend(Exception):
    """A partition cannot be extended; the message states the reason."""


@dataclass(frozen=True, slots=True)
class Extension:
    """How a partition is extended.

    Attributes:
        sectors: the new number of its sectors, of 512 bytes.
        writes: what to write to the disk: the first sector and the content, a whole number of sectors.
    """

    sectors: int
    writes: tuple[tuple[int, bytes], ...]


def extend_partition(head: bytes, number: int, disk_sectors: int) -> Extension:
    """Extend the partition *number* to the end of a disk with *disk_sectors* sectors.

    Args:
        head: the first `HEAD_SECTORS` of the disk.
        number: the partition's number, from 1.
        disk_sectors: the sectors of the disk.

    Raises:
        CannotExtend: another partition follows, or the table has no such partition or is damaged.
    """
    if len(head) < HEAD_SECTORS * SECTOR or head[510:512] != b"\x55\xaa":
        raise CannotExtend("the disk has no partition table")
    entries = [_MBR_ENTRY.unpack_from(head, _MBR_AT + 16 * place) for place in range(4)]
    if any(entry[2] == _PROTECTIVE for entry in entries) and head[SECTOR : SECTOR + 8] == b"EFI PART":
        return _extend_gpt(head, number, disk_sectors)
    if not 1 <= number <= 4 or not entries[number - 1][2]:
        raise CannotExtend(f"partition {number} is not a primary partition")
    flags, first_chs, kind, last_chs, start, _ = entries[number - 1]
    if any(other[2] and other[4] > start for other in entries):
        raise CannotExtend(f"another partition follows partition {number}")
    sectors = min(disk_sectors - start, _MBR_MAX)
    table = bytearray(head[:SECTOR])
    _MBR_ENTRY.pack_into(table, _MBR_AT + 16 * (number - 1), flags, first_chs, kind, last_chs, start, sectors)
    return Extension(sectors, ((0, bytes(table)),))


def _extend_gpt(head: bytes, number: int, disk_sectors: int) -> Extension:
    header = _HEADER.unpack_from(head, SECTOR)
    _, revision, header_size, header_crc, _, own, _, first_usable, _, guid, array_at, count, size, array_crc = header
    array_sectors = -(-count * size // SECTOR)
    if header_size != _HEADER.size or own != 1 or size < 128 or size % 8 or array_at + array_sectors > HEAD_SECTORS:
        raise CannotExtend("the partition table (GPT) has an unusual form")
    array = bytearray(head[array_at * SECTOR : (array_at + array_sectors) * SECTOR])
    plain = _HEADER.pack(*header[:3], 0, *header[4:])
    if binascii.crc32(plain) != header_crc or binascii.crc32(array[: count * size]) != array_crc:
        raise CannotExtend("the partition table (GPT) is damaged: its checksum is wrong")
    ranges = [struct.unpack_from("<QQ", array, place * size + 32) for place in range(count)]
    used = [array[place * size : place * size + 16] != bytes(16) for place in range(count)]
    if not 1 <= number <= count or not used[number - 1]:
        raise CannotExtend(f"the partition table (GPT) has no partition {number}")
    start, old_end = ranges[number - 1]
    if any(in_use and first > start for in_use, (first, _) in zip(used, ranges, strict=True)):
        raise CannotExtend(f"another partition follows partition {number}")
    last_usable = disk_sectors - array_sectors - 2
    end = max(old_end, (last_usable + 1) // _ALIGNED * _ALIGNED - 1)
    if end > last_usable:
        raise CannotExtend("the disk is smaller than its partition table (GPT) states")
    struct.pack_into("<Q", array, (number - 1) * size + 40, end)
    crc = binascii.crc32(array[: count * size])

    def sector(at: int, other: int, array_at: int) -> bytes:
        fields = (at, other, first_usable, last_usable, guid, array_at, count, size, crc)
        unchecked = _HEADER.pack(b"EFI PART", revision, header_size, 0, 0, *fields)
        checked = _HEADER.pack(b"EFI PART", revision, header_size, binascii.crc32(unchecked), 0, *fields)
        return checked.ljust(SECTOR, b"\0")

    last = disk_sectors - 1
    protective = bytearray(head[:SECTOR])
    for place in range(_MBR_AT, _MBR_AT + 64, 16):
        if protective[place + 4] == _PROTECTIVE:
            struct.pack_into("<I", protective, place + 12, min(last, _MBR_MAX))
    return Extension(
        end - start + 1,
        (
            # The copy first: if the power fails in between, the old table at the front is still right.
            (last - array_sectors, bytes(array)),
            (last, sector(last, 1, last - array_sectors)),
            (array_at, bytes(array)),
            (1, sector(1, last, array_at)),
            (0, bytes(protective)),
        ),
    )
