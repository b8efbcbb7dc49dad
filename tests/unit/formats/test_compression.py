from __future__ import annotations

import gzip
import io
import lzma
import tracemalloc
from collections.abc import Callable
from functools import partial

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pytest_xhyve.formats.compression import DamagedFile, decompressed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": partial(lzma.compress, preset=0),
    "zstd": zstandard.compress,
}
contents = st.lists(st.binary(max_size=4) | st.just(bytes(1 << 18)), max_size=8).map(b"".join)
kinds = st.sampled_from(sorted(COMPRESS))


def content_of(data: bytes, kind: str) -> bytes:
    return b"".join(decompressed(io.BytesIO(data), kind))


@given(kinds, st.lists(contents, min_size=1, max_size=3))
def test_content_comes_back(kind: str, parts: list[bytes]) -> None:
    """Also of a file that several programs have added to."""
    data = b"".join(COMPRESS[kind](part) for part in parts)
    assert content_of(data, kind) == b"".join(parts)


@given(kinds, st.integers(1, 40))
def test_file_that_is_cut_off(kind: str, missing: int) -> None:
    data = COMPRESS[kind](bytes(range(256)) * 300)
    with pytest.raises(DamagedFile):
        content_of(data[:-missing], kind)


@pytest.mark.parametrize("kind", sorted(COMPRESS))
def test_file_that_is_damaged(kind: str) -> None:
    data = bytearray(COMPRESS[kind](bytes(range(256)) * 300))
    data[12:40] = bytes(28)
    with pytest.raises(DamagedFile):
        content_of(bytes(data), kind)


@given(contents, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 300))
def test_frames_of_zstd(content: bytes, checksum: bool, size: bool, streamed: bool, skipped: int) -> None:
    """With each kind of header, and with a frame to be skipped, as `pzstd` writes it."""
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
    if streamed:
        stream = compressor.compressobj()
        data = stream.compress(content) + stream.flush()
    else:
        data = compressor.compress(content)
    skip = b"\x5a\x2a\x4d\x18" + skipped.to_bytes(4, "little") + bytes(skipped)
    assert content_of(skip + data + skip, "zstd") == content
    for wrong in (skip[:-1] if skipped else skip[:7], skip[:3], b"more"):
        with pytest.raises(DamagedFile):
            content_of(data + wrong, "zstd")


def test_zeros_between_the_streams_of_xz() -> None:
    data = lzma.compress(b"one") + bytes(8) + lzma.compress(b"two") + bytes(4)
    assert content_of(data, "xz") == b"onetwo"


@pytest.mark.parametrize(("kind", "size", "limit"), [("gzip", 26, 24), ("xz", 26, 24), ("zstd", 28, 22)])
def test_memory_is_bounded(kind: str, size: int, limit: int) -> None:
    """Of a disk of zeros, a few bytes become gigabytes."""
    data = COMPRESS[kind](bytes(1 << size))
    tracemalloc.start()
    try:
        assert sum(len(piece) for piece in decompressed(io.BytesIO(data), kind)) == 1 << size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << limit


@pytest.mark.parametrize("kind", COMPRESS)
def test_file_that_comes_in_small_pieces(kind: str) -> None:
    """As over a connection: a read returns less than was asked for."""

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 3))

    content = bytes(range(256)) * 300
    assert b"".join(decompressed(Dripping(COMPRESS[kind](content)), kind)) == content
