"""Read and unpack a Linux kernel for arm64 (Linux, Documentation/arch/arm64/booting.rst).

Distributions install it in one of three formats: an Image, which is not compressed; an Image in a gzip file, whose name
does not always state it; and an EFI zboot file (drivers/firmware/efi/libstub/zboot-header.S), a program of the firmware
with a compressed Image in it. vfkit loads only an Image; QEMU loads a gzip file, too. Their drivers unpack the others.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_xhyve.model.errors import ImageError

Form = Literal["Image", "gzip", "zboot"]

_HEADER_BYTES = 64
_MAGIC = b"ARM\x64"
_MAGIC_AT = 0x38
_GZIP = b"\x1f\x8b\x08"
_WINDOW_OF_GZIP = 31
_MAX_IMAGE = 512 << 20


@dataclass(frozen=True, slots=True)
class Arm64Kernel:
    """What the file of a kernel states about itself.

    Attributes:
        form: the format of the file.
        compression: how the Image in a zboot file is compressed, as the file states: ``gzip``, ``zstd``, ``lz4`` …;
            empty for other formats.
        payload: the first byte of the Image in the file, compressed or not, and the number of its bytes; 0 bytes mean
            up to the end of the file.
        image_size: bytes of memory that the kernel needs; 0 if the file does not state that before it is unpacked.
    """

    form: Form
    compression: str
    payload: tuple[int, int]
    image_size: int


def read_arm64_kernel(path: Path) -> Arm64Kernel | None:
    """What the kernel at *path* states about itself, or None if the file is not a kernel for arm64.

    A gzip file counts as one if its content begins as an Image.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    return _read(start)


def unpack_arm64_kernel(path: Path) -> bytes:
    """The Image in the kernel at *path*.

    Raises:
        ImageError: the file is not a kernel for arm64, is damaged, or its compression is unknown.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    kernel = _read(content[:4096])
    if kernel is None:
        raise ImageError(f"{path} is not a Linux kernel for arm64 (an Image, a gzip file of one, or an EFI zboot file)")
    begin, length = kernel.payload
    payload = content[begin : begin + length] if length else content[begin:]
    if length and len(payload) < length:
        raise ImageError(
            f"{path} is truncated: its Image ends after {begin + length} bytes, the file has {len(content)}"
        )
    if kernel.form == "Image":
        return content
    if kernel.form == "zboot" and kernel.compression != "gzip":
        raise ImageError(
            f"{path} is an EFI zboot file whose Image is compressed by {kernel.compression or 'an unnamed program'}, "
            "which the plugin cannot unpack\n  use the distribution's uncompressed kernel, or firmware: uefi"
        )
    image = _gunzip(payload, _MAX_IMAGE)
    if image is None or not _is_image(image):
        raise ImageError(f"{path} is damaged: its compressed part is not an Image for arm64")
    return image


def _read(start: bytes) -> Arm64Kernel | None:
    if start.startswith(_GZIP):
        begin = _gunzip(start, _HEADER_BYTES)
        if begin is None or not _is_image(begin):
            return None
        return Arm64Kernel("gzip", "", (0, 0), _image_size(begin))
    if len(start) < _HEADER_BYTES:
        return None
    if start[:2] == b"MZ" and start[4:8] == b"zimg":
        offset, size = struct.unpack_from("<II", start, 8)
        # A name of at most 31 characters, and a NUL.
        compression = start[24:56].partition(b"\0")[0].decode("ascii", "replace")
        return Arm64Kernel("zboot", compression, (offset, size), 0)
    return Arm64Kernel("Image", "", (0, 0), _image_size(start)) if _is_image(start) else None


def _is_image(start: bytes) -> bool:
    return start[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC


def _image_size(start: bytes) -> int:
    (size,) = struct.unpack_from("<Q", start, 16)
    return int(size)


def _gunzip(data: bytes, limit: int) -> bytes | None:
    """At most *limit* unpacked bytes of *data*, whose end may be missing; None if it is not a gzip file."""
    try:
        return zlib.decompressobj(wbits=_WINDOW_OF_GZIP).decompress(data, limit)
    except zlib.error:
        return None
