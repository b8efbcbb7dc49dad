"""Read the header of a bzImage, a Linux kernel for x86 (Linux, Documentation/arch/x86/boot.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES = 0x264
_OLDEST_CMDLINE_SIZE = 255


@dataclass(frozen=True, slots=True)
class KernelHeader:
    """The header of a kernel.

    Attributes:
        protocol: version of the boot protocol, for example 0x020a for 2.10.
        setup_sectors: number of sectors of 512 bytes before the kernel itself; in old kernels, 0 means 4.
        loaded_high: whether the kernel is loaded at 1 MiB.
        cmdline_size: limit of the command line in bytes, without the final NUL.
        init_size: bytes of memory that the kernel needs to unpack itself; 0 if the protocol does not state it.
    """

    protocol: int
    setup_sectors: int
    loaded_high: bool
    cmdline_size: int
    init_size: int


def read_kernel_header(path: Path) -> KernelHeader | None:
    """The header of the kernel at *path*, or None if the file is not a bzImage.

    Raises:
        OSError: the file cannot be read.
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
