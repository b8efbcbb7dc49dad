"""What a kernel says of itself in the header of a bzImage (Linux, Documentation/arch/x86/boot.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 0x264
_OLDEST_CMDLINE_SIZE = 255


@dataclass(frozen=True, slots=True)
class KernelHeader:
    """The header.

    Attributes:
        protocol: version of the boot protocol, as 0x020a for 2.10.
        setup_sectors: of 512 bytes, before the kernel itself; old ones say 0 and mean 4.
        loaded_high: whether the kernel is loaded at 1 MiB.
        cmdline_size: bytes that its command line may have, without the one that ends it.
        init_size: bytes of memory that it needs to unpack itself; 0 where the protocol does not tell.
    """

    protocol: int
    setup_sectors: int
    loaded_high: bool
    cmdline_size: int
    init_size: int


def read_kernel_header(path: Path) -> KernelHeader | None:
    """The header of the kernel at *path*, or None when that is no bzImage.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as kernel:
        header = kernel.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[0x1FE:0x200] != b"\x55\xaa" or header[0x202:0x206] != b"HdrS":
        return None
    (protocol,) = struct.unpack_from("<H", header, 0x206)
    return KernelHeader(
        protocol=protocol,
        setup_sectors=header[0x1F1],
        loaded_high=bool(header[0x211] & 1),
        cmdline_size=struct.unpack_from("<I", header, 0x238)[0] if protocol >= 0x0206 else _OLDEST_CMDLINE_SIZE,
        init_size=struct.unpack_from("<I", header, 0x260)[0] if protocol >= 0x020A else 0,
    )
