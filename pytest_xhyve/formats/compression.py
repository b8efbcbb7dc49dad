"""The content of compressed files, piece by piece: each piece is small, however well the file is compressed."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import IO

_PIECE = 1 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# The end of the magic number of a frame to be skipped, whose first byte is 0x50 to 0x5f.
_ZSTD_SKIPPED = b"\x2a\x4d\x18"
# xz needs 65 MiB at its highest level (xz(1)), zstd 2 GiB at its largest window (zstd(1), --long=31).
_XZ_MEMORY = 1 << 30
_ZSTD_WINDOW = 1 << 31


class DamagedFile(Exception):
    """A compressed file is damaged or cut off; the message states what is wrong."""


def decompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """The content of *file*.

    Args:
        file: the compressed file, at its start.
        compression: ``gzip``, ``xz`` or ``zstd``.

    Raises:
        DamagedFile: the file is damaged or cut off.
        OSError: the file cannot be read.
    """
    pieces = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}[compression]
    try:
        yield from pieces(file)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFile(str(error) or type(error).__name__) from error


def _gzip(file: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as content:
        while piece := content.read(_PIECE):
            yield piece


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    decompressor: lzma.LZMADecompressor | None = None
    data = b""
    while data or (data := file.read(_PIECE)):
        if decompressor is None:
            # Between streams, there may be zeros (the .xz file format, section 2.2).
            data = data.lstrip(b"\0")
            if not data:
                continue
            decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        yield decompressor.decompress(data, _PIECE)
        while not decompressor.eof and not decompressor.needs_input:
            yield decompressor.decompress(b"", _PIECE)
        data = b""
        if decompressor.eof:
            data, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("it ends in the middle")


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    # Few disks need it.
    import zstandard  # noqa: PLC0415

    frames = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        while magic := _at_most(file, len(_ZSTD_MAGIC)):
            if magic[1:] == _ZSTD_SKIPPED and magic[0] & 0xF0 == 0x50:
                _skip(file, int.from_bytes(_exactly(file, 4), "little"))
                continue
            if magic != _ZSTD_MAGIC:
                raise DamagedFile("something else follows" if len(magic) == 4 else "it ends in the middle")
            frame = frames.decompressobj()
            for part in _zstd_parts(file):
                if piece := frame.decompress(part):
                    yield piece
            if not frame.eof:
                raise EOFError("it ends in the middle")
    except zstandard.ZstdError as error:
        raise DamagedFile(str(error)) from error


def _zstd_parts(file: IO[bytes]) -> Iterator[bytes]:
    """A frame, of which the magic number is read: its header, and then each block (RFC 8878, section 3.1.1).

    Whatever a block contains, it becomes 128 KiB at most, so that each piece is small.
    """
    descriptor = _exactly(file, 1)
    flags = descriptor[0]
    is_single = flags >> 5 & 1
    size = (is_single, 2, 4, 8)[flags >> 6] + (0, 1, 2, 4)[flags & 3] + (1 - is_single)
    yield _ZSTD_MAGIC + descriptor + _exactly(file, size)
    is_last = False
    while not is_last:
        header = _exactly(file, 3)
        number = int.from_bytes(header, "little")
        is_last, is_repeated = bool(number & 1), number >> 1 & 3 == 1
        yield header + _exactly(file, 1 if is_repeated else number >> 3)
    if flags >> 2 & 1:
        yield _exactly(file, 4)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = _at_most(file, size)
    if len(data) < size:
        raise EOFError("it ends in the middle")
    return data


def _at_most(file: IO[bytes], size: int) -> bytes:
    """The next *size* bytes, or what is left of them; what comes over a wire comes in smaller pieces."""
    pieces = []
    while size and (piece := file.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _skip(file: IO[bytes], size: int) -> None:
    while size:
        size -= len(_exactly(file, min(size, _PIECE)))
