"""A file of the pieces that an iterator yields: of a connection, of an archive, of a file with holes."""

from __future__ import annotations

import io
from collections.abc import Iterator


class Pieces(io.RawIOBase):
    """*pieces* as a file. A read returns as much as was asked for, and less only at the end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """The next *size* bytes, or all that is left."""
        parts = []
        while size:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
            part = self._left if size < 0 else self._left[:size]
            self._left = self._left[len(part) :]
            parts.append(part)
            size = size if size < 0 else size - len(part)
        return b"".join(parts)
