"""The header of a qcow2 file (docs/interop/qcow2.txt in QEMU's sources)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"QFI\xfb"
"""The first bytes of a qcow2 file."""

_NAME_BYTES = 1023


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What the header states.

    Attributes:
        backing: the name of the file that this one is based on, as written; None if there is none.
        encrypted: whether the data is encrypted.
        size: the size of the disk, as the guest sees it, in bytes.
        has_data_file: whether the data is in another file, which the header names.
    """

    backing: str | None
    encrypted: bool
    size: int
    has_data_file: bool = False


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
        backing = None
        if offset:
            file.seek(offset)
            backing = file.read(min(length, _NAME_BYTES)).decode("utf-8", "surrogateescape")
    return Qcow2Header(backing, encrypted=encryption != 0, size=size, has_data_file=bool(features & 4))
