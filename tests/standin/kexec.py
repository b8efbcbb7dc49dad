"""What xhyve asks of a kernel and an initial RAM disk before it runs them (src/firmware/kexec.c in its sources)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

# The setup header of Documentation/arch/x86/boot.rst in Linux's sources.
_HEADER = 0x1F1
_HEADER_SIZE = 0x7B
_LOWMEM_LIMIT = 3 << 30
_BASE_CMDLINE = 0x20000
_BASE_KERNEL = 0x100000


class Refused(Exception):
    """xhyve does not load it; the message is its own."""


@dataclass(frozen=True, slots=True)
class _Header:
    """What the setup header of a bzImage says, in so far as xhyve looks at it."""

    sectors: int
    size: int
    boot_flag: int
    magic: bytes
    version: int
    flags: int
    initrd_limit: int
    alignment: int
    relocatable: bool
    cmdline_size: int
    address: int
    init_size: int

    @classmethod
    def read(cls, image: bytes) -> _Header:
        def number(offset: int, form: str) -> int:
            (found,) = struct.unpack_from("<" + form, image, offset)
            return int(found)

        return cls(
            sectors=number(0x1F1, "B"),
            size=number(0x1F4, "I") * 16,
            boot_flag=number(0x1FE, "H"),
            magic=image[0x202:0x206],
            version=number(0x206, "H"),
            flags=number(0x211, "B"),
            initrd_limit=number(0x22C, "I"),
            alignment=number(0x230, "I"),
            relocatable=bool(number(0x234, "B")),
            cmdline_size=number(0x238, "I"),
            address=number(0x258, "Q"),
            init_size=number(0x260, "I"),
        )


def check(kernel: str, initrd: str, cmdline: str, memory: int) -> None:
    """See that xhyve would start this.

    Raises:
        Refused: it would not.
    """
    lowmem = min(memory, _LOWMEM_LIMIT)
    header = _read_kernel(kernel, lowmem)
    if header is None or not _takes_cmdline(header, cmdline):
        raise Refused(f"kexec: failed to load kernel {kernel}\n")
    if initrd and not _takes_initrd(header, initrd, lowmem):
        raise Refused(f"kexec: failed to load initrd {initrd}\n")


def _read_kernel(path: str, lowmem: int) -> _Header | None:
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(_HEADER + _HEADER_SIZE)
    except OSError:
        return None
    if size < _HEADER + _HEADER_SIZE:
        return None
    header = _Header.read(start)
    if (
        header.sectors == 0
        or header.boot_flag != 0xAA55
        or header.magic != b"HdrS"
        or header.version < 0x20A
        or not header.flags & 1
        or size < (header.sectors + 1) * 512 + header.size
    ):
        return None
    room = _round_up(header.init_size, 0x1000)
    where = _where(header)
    if where < _BASE_KERNEL or size - (header.sectors + 1) * 512 > room or where + room > lowmem:
        return None
    return header


def _takes_cmdline(header: _Header, cmdline: str) -> bool:
    length = len((cmdline or "auto").encode(errors="surrogateescape")) + 1
    return length <= header.cmdline_size and _BASE_CMDLINE + length <= _where(header)


def _takes_initrd(header: _Header, path: str, lowmem: int) -> bool:
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
    except OSError:
        return False
    # An empty file cannot be "read" either.
    limit = min(header.initrd_limit, lowmem - 1)
    return 0 < size <= limit


def _where(header: _Header) -> int:
    return _round_up(_BASE_KERNEL, header.alignment) if header.relocatable else header.address


def _round_up(number: int, step: int) -> int:
    return (number + step - 1) // step * step if step else number
