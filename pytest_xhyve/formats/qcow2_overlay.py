"""Write a qcow2 file that contains only differences to a backing file (docs/interop/qcow2.txt in QEMU's sources).

qemu-img creates only empty ones. This writer puts data into them without a second program and without reading the
backing file: the file has extended L2 entries (QEMU 5.2), with which a cluster may contain some of its 32 subclusters
and leave the others to the backing file.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_xhyve.formats.qcow2 import MAGIC

FINE = 14
"""Clusters of 16 KiB with subclusters of 512 bytes: any sector may differ."""

COARSE = 17
"""Clusters of 128 KiB with subclusters of 4 KiB, for a disk that a guest writes to."""

_SUBCLUSTERS = 32
_COPIED = 1 << 63
_EXTENDED_L2 = 1 << 4
_BACKING_FORMAT = 0xE2792ACA
_REFCOUNT_ORDER = 4
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_L2_ENTRY = struct.Struct(">QQ")
_MAX_NAME = 1023


@dataclass(slots=True)
class _Cluster:
    """A cluster of the disk: where it is in the file, and which of its subclusters are there, or are zeros."""

    at: int = 0
    allocated: int = 0
    zeros: int = 0


class Qcow2Overlay:
    """A new qcow2 file; it is complete at the end of the ``with`` block.

    Args:
        path: the file; it must not exist yet.
        size: the disk's size in bytes: a multiple of 512.
        backing: the file that contains everything else.
        backing_format: its format as QEMU names it.
        cluster_bits: `FINE` or `COARSE`.

    Raises:
        ValueError: the backing file's name is too long.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size: int, backing: Path, backing_format: str, cluster_bits: int = FINE) -> None:
        self._name = os.fsencode(backing)
        if len(self._name) > _MAX_NAME:
            raise ValueError(f"the name {backing} is longer than {_MAX_NAME} bytes")
        self._format = backing_format.encode()
        self._size = size
        self._cluster_bits = cluster_bits
        self._cluster = 1 << cluster_bits
        self._sub = self._cluster // _SUBCLUSTERS
        self._per_l2 = self._cluster // _L2_ENTRY.size
        self._l1_size = -(-size // (self._per_l2 * self._cluster))
        self._clusters: dict[int, _Cluster] = {}
        # The header, and then the L1 table.
        self._used = 1 + max(1, self._count(self._l1_size * 8))
        self._stack = ExitStack()
        self._file = self._stack.enter_context(
            os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self._write_tables()

    def write(self, offset: int, data: bytes) -> None:
        """Write *data* at *offset*; both must be multiples of a subcluster."""
        done = 0
        for number, first, count in self._pieces(offset, len(data)):
            cluster = self._clusters.setdefault(number, _Cluster())
            if not cluster.at:
                cluster.at = self._allocate(1)
            size = count * self._sub
            self._put(cluster.at + first * self._sub, data[done : done + size])
            done += size
            bits = ((1 << count) - 1) << first
            cluster.allocated |= bits
            cluster.zeros &= ~bits

    def zero(self, offset: int, size: int) -> None:
        """Write *size* zeros at *offset*; both must be multiples of a subcluster."""
        for number, first, count in self._pieces(offset, size):
            cluster = self._clusters.setdefault(number, _Cluster())
            bits = ((1 << count) - 1) << first
            cluster.zeros |= bits
            cluster.allocated &= ~bits

    def _pieces(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """For each cluster of a range: its number, the first subcluster, and the number of subclusters."""
        assert not offset % self._sub
        assert not size % self._sub
        pieces = []
        at, end = offset // self._sub, (offset + size) // self._sub
        while at < end:
            number, first = divmod(at, _SUBCLUSTERS)
            count = min(end - at, _SUBCLUSTERS - first)
            pieces.append((number, first, count))
            at += count
        return pieces

    def _write_tables(self) -> None:
        l1 = [0] * self._l1_size
        tables: dict[int, bytearray] = {}
        for number, cluster in self._clusters.items():
            index, entry = divmod(number, self._per_l2)
            table = tables.setdefault(index, bytearray(self._cluster))
            at = cluster.at | _COPIED if cluster.at else 0
            _L2_ENTRY.pack_into(table, entry * _L2_ENTRY.size, at, cluster.zeros << _SUBCLUSTERS | cluster.allocated)
        for index, table in tables.items():
            at = self._allocate(1)
            self._put(at, bytes(table))
            l1[index] = at | _COPIED
        self._put(self._cluster, struct.pack(f">{len(l1)}Q", *l1))
        refcounts = self._write_refcounts()
        extensions = _extension(_BACKING_FORMAT, self._format) + _extension(0, b"")
        name_at = _HEADER.size + len(extensions)
        header = _HEADER.pack(
            MAGIC,
            3,
            name_at,
            len(self._name),
            self._cluster_bits,
            self._size,
            0,
            self._l1_size,
            self._cluster,
            *refcounts,
            0,
            0,
            _EXTENDED_L2,
            0,
            0,
            _REFCOUNT_ORDER,
            _HEADER.size,
        )
        self._put(0, header + extensions + self._name)
        self._file.truncate(self._used * self._cluster)

    def _write_refcounts(self) -> tuple[int, int]:
        """Count each cluster once; return where the table of counts is, and how many clusters it takes."""
        per_block = self._cluster * 8 >> _REFCOUNT_ORDER
        blocks = tables = 1
        while True:
            total = self._used + blocks + tables
            needed = -(-total // per_block), self._count(-(-total // per_block) * 8)
            if needed == (blocks, tables):
                break
            blocks, tables = needed
        table_at = self._allocate(tables)
        block_at = self._allocate(blocks)
        self._put(table_at, struct.pack(f">{blocks}Q", *(block_at + n * self._cluster for n in range(blocks))))
        self._put(block_at, b"\0\1" * self._used)
        return table_at, tables

    def _allocate(self, count: int) -> int:
        at, self._used = self._used * self._cluster, self._used + count
        return at

    def _count(self, size: int) -> int:
        return -(-size // self._cluster)

    def _put(self, at: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            view, at = view[written:], at + written


def _extension(kind: int, data: bytes) -> bytes:
    """A header extension, padded to a multiple of 8 bytes."""
    return struct.pack(">II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
