"""The content of compressed files, piece by piece: each piece is small, however well the file is compressed."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import IO

_PIECE = 1 << 20
# A piece of zstd cannot be limited, but its input can: 1 KiB becomes 32 MiB at most (RFC 8878, section 3.1.1.2.2).
_ZSTD_INPUT = 1 << 10
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
    frame = frames.decompressobj()
    begun = False
    try:
        while data := file.read(_ZSTD_INPUT):
            while data:
                if frame.eof:
                    frame = frames.decompressobj()
                begun = True
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise DamagedFile(str(error)) from error
    if begun and not frame.eof:
        raise EOFError("it ends in the middle")
