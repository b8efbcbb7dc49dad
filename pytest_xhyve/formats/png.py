"""Turn a screen's contents in PPM, which every QEMU writes, into PNG, which everything shows."""

from __future__ import annotations

import re
import struct
import zlib

# netpbm's ppm(5), as QEMU writes it: no comments, three bytes for each pixel.
_HEADER = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")
_TRUE_COLOUR = 2


def png_from_ppm(ppm: bytes) -> bytes:
    """The picture in *ppm* as a PNG file (PNG Specification, third edition).

    Raises:
        ValueError: *ppm* is not a picture in PPM with one byte for each colour, or is cut off.
    """
    header = _HEADER.match(ppm)
    if header is None:
        raise ValueError("this is not a picture in PPM")
    width, height = int(header[1]), int(header[2])
    row = 3 * width
    pixels = ppm[header.end() :]
    if not row * height or len(pixels) < row * height:
        raise ValueError("the picture is cut off")
    # Each row begins with the type of its filter: 0 leaves it as it stands.
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, row * height, row))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _TRUE_COLOUR, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(rows)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
