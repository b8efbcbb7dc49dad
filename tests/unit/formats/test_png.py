"""Pictures in PNG, read back by what PNG is made of."""

from __future__ import annotations

import struct
import zlib

import pytest

from pytest_xhyve.formats.png import png_from_ppm


def chunks(png: bytes) -> dict[bytes, bytes]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    found, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + content),)
        found[kind] = content
        at += 12 + length
    return found


def test_each_pixel_is_kept() -> None:
    pixels = bytes(range(18))
    parts = chunks(png_from_ppm(b"P6\n3 2\n255\n" + pixels))
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", parts[b"IHDR"]) == (3, 2, 8, 2, 0, 0, 0)
    assert zlib.decompress(parts[b"IDAT"]) == b"\0" + pixels[:9] + b"\0" + pixels[9:]


@pytest.mark.parametrize(
    "ppm", [b"", b"P5\n3 2\n255\n" + bytes(18), b"P6\n3 2\n65535\n" + bytes(36), b"P6\n3 2\n255\n" + bytes(17)]
)
def test_what_is_not_such_a_picture_is_an_error(ppm: bytes) -> None:
    with pytest.raises(ValueError, match="picture"):
        png_from_ppm(ppm)


def test_picture_of_no_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="cut off"):
        png_from_ppm(b"P6\n0 0\n255\n")
