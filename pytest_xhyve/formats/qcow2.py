"""The header of a qcow2 file (docs/interop/qcow2.txt in QEMU's sources)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MAGIC = b"QFI\xfb"
"""The first bytes of a qcow2 file."""

_MOST_CLUSTER_BITS = 21
HEAD_BYTES = 1 << _MOST_CLUSTER_BITS
"""The size of the largest cluster: the name of the file that a qcow2 file is based on is in the first one."""

_NAME_BYTES = 1023
_SECTOR = 512
# A bit of the incompatible features.
_EXTERNAL_DATA = 1 << 2
# The type of a header extension.
_BACKING_FORMAT = 0xE2792ACA
# All extensions are in the first cluster; QEMU writes a few hundred bytes.
_EXTENSIONS_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What the header states.

    Attributes:
        backing: the name of the file that this one is based on, as written; None if there is none.
        encrypted: whether the data is encrypted.
        size: the size of the disk, as the guest sees it, in bytes.
        has_data_file: whether the data is in another file, which the header names.
        backing_format: the format of the file that this one is based on; None if the header does not state it.
    """

    backing: str | None
    encrypted: bool
    size: int
    has_data_file: bool = False
    backing_format: str | None = None


def with_backing(head: bytes, backing: str | None) -> bytes:
    """*head*, the beginning of a qcow2 file that is based on a file, if it were based on *backing*.

    Args:
        head: at least the first cluster, or the whole file; another person may have made it.
        backing: a path; None for a file that must stand alone.

    Raises:
        ValueError: the file is not what it should be, or its data is in another file.
    """
    if len(head) < 104 or not head.startswith(MAGIC):
        raise ValueError("not a qcow2 file")
    version, offset, length, cluster_bits = struct.unpack_from(">IQII", head, 4)
    if version > 2 and struct.unpack_from(">Q", head, 72)[0] & _EXTERNAL_DATA:
        raise ValueError("its data is in another file")
    if backing is None:
        if offset:
            raise ValueError("it is based on another file")
        return head
    name = os.fsencode(backing)
    # The name comes last in the first cluster.
    if (
        not offset
        or not 9 <= cluster_bits <= _MOST_CLUSTER_BITS
        or len(name) > _NAME_BYTES
        or offset + len(name) > 1 << cluster_bits
    ):
        raise ValueError("it has no room for the name of the file that it is based on")
    padded = name + bytes(max(0, min(length, _NAME_BYTES) - len(name)))
    changed = head[:offset] + padded + head[offset + len(padded) :]
    return changed[:16] + struct.pack(">I", len(name)) + changed[20:]


def set_backing(path: Path, backing: str | None) -> None:
    """Let the qcow2 file at *path* be based on the file *backing*, which has the same content as the one before.

    Args:
        path: a file that another person may have made.
        backing: a path; None for a file that must stand alone.

    Raises:
        ValueError: the file is not what it should be, or its data is in another file.
        OSError: the file cannot be read or written.
    """
    with path.open("r+b") as file:
        head = file.read(HEAD_BYTES)
        changed = with_backing(head, backing)
        # Only what differs is written: the rest may be holes.
        for at in range(0, len(changed), _SECTOR):
            if changed[at : at + _SECTOR] != head[at : at + _SECTOR]:
                file.seek(at)
                file.write(changed[at : at + _SECTOR])


def read_qcow2_header(path: Path) -> Qcow2Header | None:
    """The header of the file at *path*; None if that is not a qcow2 file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(80)
        if len(header) < 72 or not header.startswith(MAGIC):
            return None
        offset, length = struct.unpack_from(">QI", header, 8)
        size, encryption = struct.unpack_from(">QI", header, 24)
        # Version 2 ends before the features; bit 2 of the incompatible ones is the external data file.
        version = int.from_bytes(header[4:8])
        features = int.from_bytes(header[72:80]) if version >= 3 else 0
        backing = kind = None
        if offset:
            kind = _read_backing_format(file, version)
            file.seek(offset)
            backing = file.read(min(length, _NAME_BYTES)).decode("utf-8", "surrogateescape")
    return Qcow2Header(
        backing, encrypted=encryption != 0, size=size, has_data_file=bool(features & 4), backing_format=kind
    )


def _read_backing_format(file: IO[bytes], version: int) -> str | None:
    """The format of the backing file, from the header's extensions: type, length, and data padded to 8 bytes each."""
    at = 72
    if version >= 3:
        file.seek(100)
        at = int.from_bytes(file.read(4))
    file.seek(at)
    data = file.read(_EXTENSIONS_BYTES)
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == 0:
            break
        if kind == _BACKING_FORMAT:
            return data[at + 8 : at + 8 + length].decode("ascii", "replace")
        at += 8 + -(-length // 8) * 8
    return None
