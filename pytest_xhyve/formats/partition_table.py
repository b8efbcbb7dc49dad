"""The partitions of a raw disk, of its MBR or GPT (UEFI Specification 2.10, sections 5.2.1 and 5.3)."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Literal

from pytest_xhyve.formats.mbr import SECTOR, has_signature

HEAD_BYTES = 34 * SECTOR
"""How much of a disk `read_partitions` reads."""

_PROTECTIVE = 0xEE
_EXTENDED = {0x05, 0x0F, 0x85}


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition.

    Attributes:
        number: as the kernel counts them.
        start: its first byte.
        size: its size in bytes.
        type: a GUID, or the number of an MBR such as ``0x83``, as blkid(8) prints it.
    """

    number: int
    start: int
    size: int
    type: str


def read_partitions(head: bytes) -> tuple[Literal["", "dos", "gpt"], tuple[Partition, ...]] | None:
    """The kind of partition table, as blkid(8) names it, and the partitions; None for what this cannot read.

    Args:
        head: the first `HEAD_BYTES` of the disk.
    """
    if not has_signature(head):
        return "", ()
    found = []
    for number in range(4):
        kind, start, count = struct.unpack_from("<B3xII", head, 446 + 16 * number + 4)
        if kind in _EXTENDED:
            return None
        if kind and count:
            found.append(Partition(number + 1, start * SECTOR, count * SECTOR, f"{kind:#x}"))
    if [partition.type for partition in found] == [f"{_PROTECTIVE:#x}"]:
        gpt = _read_gpt(head)
        return None if gpt is None else ("gpt", gpt)
    # The boot sector of a file system has the same signature.
    return ("dos", tuple(found)) if found else None


def _read_gpt(head: bytes) -> tuple[Partition, ...] | None:
    if head[SECTOR : SECTOR + 8] != b"EFI PART":
        return None
    array, count, size = struct.unpack_from("<QII", head, SECTOR + 72)
    if (array, size) != (2, 128) or count > 128:
        return None
    found = []
    for number in range(count):
        entry = head[(array * SECTOR) + number * size :][:size]
        if len(entry) == size and entry[:16] != bytes(16):
            first, last = struct.unpack_from("<QQ", entry, 32)
            kind = str(uuid.UUID(bytes_le=entry[:16]))
            found.append(Partition(number + 1, first * SECTOR, (last - first + 1) * SECTOR, kind))
    return tuple(found)
