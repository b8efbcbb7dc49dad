"""Kernels for arm64, in the three formats in which distributions install them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from fake_images import KERNEL

from pytest_xhyve.formats.arm64_kernel import read_arm64_kernel, unpack_arm64_kernel
from pytest_xhyve.model.errors import ImageError

MEMORY = 0x1234000
# Linux, Documentation/arch/arm64/booting.rst: code0, code1, text_offset, image_size, flags, res2-4, magic, res5.
IMAGE = struct.pack("<IIQQQQQQ4sI", 0x91005A4D, 0x14000000, 0, MEMORY, 10, 0, 0, 0, b"ARM\x64", 0x40) + b"code" * 2000


def zboot(compression: str = "gzip", payload: bytes | None = None) -> bytes:
    """As zboot-header.S lays it out: MZ, zimg, offset and size, 8 bytes, the compression's name, the PE magic."""
    packed = gzip.compress(IMAGE) if payload is None else payload
    start = struct.pack("<HH4sIIQ32sII", 0x5A4D, 0, b"zimg", 512, len(packed), 0, compression.encode(), 0x818223CD, 64)
    return start.ljust(512, b"\0") + packed


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    return tmp_path / "vmlinuz"


@pytest.mark.parametrize(
    ("content", "form", "memory"),
    [(IMAGE, "Image", MEMORY), (gzip.compress(IMAGE), "gzip", MEMORY), (zboot(), "zboot", 0)],
    ids=["Image", "gzip", "zboot"],
)
def test_three_formats(kernel: Path, content: bytes, form: str, memory: int) -> None:
    kernel.write_bytes(content)
    read = read_arm64_kernel(kernel)
    assert read is not None
    assert (read.form, read.image_size) == (form, memory)
    assert unpack_arm64_kernel(kernel) == IMAGE


@pytest.mark.parametrize(
    "content",
    [b"", b"MZ", KERNEL, gzip.compress(KERNEL), gzip.compress(b""), b"\x1f\x8b\x08garbage", IMAGE[:50], IMAGE[4:]],
    ids=["empty", "short", "bzImage", "bzImage in gzip", "nothing in gzip", "no gzip", "half a header", "shifted"],
)
def test_what_is_no_kernel_for_arm64(kernel: Path, content: bytes) -> None:
    kernel.write_bytes(content)
    assert read_arm64_kernel(kernel) is None
    with pytest.raises(ImageError, match="is not a Linux kernel for arm64"):
        unpack_arm64_kernel(kernel)


@pytest.mark.parametrize("compression", ["zstd", "lz4", ""])
def test_compression_that_cannot_be_unpacked(kernel: Path, compression: str) -> None:
    kernel.write_bytes(zboot(compression, b"packed"))
    read = read_arm64_kernel(kernel)
    assert read is not None
    assert read.compression == compression
    with pytest.raises(ImageError, match=f"compressed by {compression or 'an unnamed'}[\\s\\S]*firmware: uefi"):
        unpack_arm64_kernel(kernel)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zboot()[:-1], "is truncated"),
        (zboot(payload=b"garbage"), "is damaged"),
        (zboot(payload=gzip.compress(KERNEL)), "is damaged"),
    ],
    # A gzip file states when it was made, which differs between xdist's workers.
    ids=["truncated", "damaged", "no kernel"],
)
def test_damaged_zboot(kernel: Path, content: bytes, words: str) -> None:
    kernel.write_bytes(content)
    with pytest.raises(ImageError, match=words):
        unpack_arm64_kernel(kernel)
