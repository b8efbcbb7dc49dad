"""Members of a tar archive for files with holes, as GNU tar's old format has them (tar(5)); `tarfile` writes none."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import Any

_BLOCK = tarfile.BLOCKSIZE
# In the header: where the list of pieces begins, and how many of them it has; in a block of its own: how many.
_LIST_AT, _IN_HEADER, _IN_BLOCK = 386, 4, 21
_PREFIX_AT = 345
_CHECKSUM = slice(148, 156)
_NUMBER = 12


class SparseMember(tarfile.TarInfo):
    """A member with holes; its content in the archive are its pieces, one after the other.

    Args:
        member: the file's name, owner, mode and times.
        size: the file's size in bytes, holes included.
        pieces: offset and length of each piece, in their order; none reaches beyond the end.
    """

    def __init__(self, member: tarfile.TarInfo, size: int, pieces: Sequence[tuple[int, int]]) -> None:
        super().__init__(member.name)
        self.uid, self.gid, self.mode, self.mtime = member.uid, member.gid, member.mode, member.mtime
        self.type = tarfile.GNUTYPE_SPARSE
        self.size = sum(length for _, length in pieces)
        self._real_size = size
        # A last piece without data makes the file as long as it is.
        self._pieces = [*pieces, (size, 0)]

    def tobuf(self, *options: Any, **more: Any) -> bytes:
        """The header, and the rest of the list of pieces; see `tarfile.TarInfo.tobuf`."""
        content = bytearray(super().tobuf(*options, **more))
        # Before it, there may be the blocks of a long name.
        header = memoryview(content)[-_BLOCK:]
        first, rest = self._pieces[:_IN_HEADER], self._pieces[_IN_HEADER:]
        fields = _list(first).ljust(_IN_HEADER * 2 * _NUMBER, b"\0") + bytes([bool(rest)]) + _number(self._real_size)
        header[_PREFIX_AT:_BLOCK] = bytes(_LIST_AT - _PREFIX_AT) + fields.ljust(_BLOCK - _LIST_AT, b"\0")
        header[_CHECKSUM] = b" " * 8
        header[_CHECKSUM] = f"{sum(header):06o}\0 ".encode()
        blocks = []
        for at in range(0, len(rest), _IN_BLOCK):
            is_last = at + _IN_BLOCK >= len(rest)
            block = _list(rest[at : at + _IN_BLOCK]).ljust(_IN_BLOCK * 2 * _NUMBER, b"\0") + bytes([not is_last])
            blocks.append(block.ljust(_BLOCK, b"\0"))
        return bytes(content) + b"".join(blocks)


def _list(pieces: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(_number(offset) + _number(length) for offset, length in pieces)


def _number(value: int) -> bytes:
    """*value* in a field of the header: octal digits, or from 8 GiB on its bytes behind a mark."""
    if value < 8 ** (_NUMBER - 1):
        return f"{value:0{_NUMBER - 1}o}\0".encode()
    return b"\x80" + value.to_bytes(_NUMBER - 1)
