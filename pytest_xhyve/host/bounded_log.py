"""Files to which a guest can print without end: its console, and what its hypervisor prints about it.

The head and the tail are kept. The middle of a log that is too long is removed from the disk, and the rest keeps its
places.

This module imports only the standard library, as the guardian's script is made of it.
"""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.host.disk import punch_hole

HEAD_BYTES = 1 << 20
TAIL_BYTES = 7 << 20
"""These parts of a log that is longer are read, and kept if it is much longer."""

_SPARE_BYTES = 8 << 20


def shrink(log: Path) -> None:
    """If *log* is too long, free the disk space of its middle; the other bytes keep their places."""
    try:
        size = log.stat().st_size
    except OSError:
        # It has gone, or there is none yet.
        return
    if size > HEAD_BYTES + TAIL_BYTES + _SPARE_BYTES:
        punch_hole(log, HEAD_BYTES, size - TAIL_BYTES - HEAD_BYTES)


def read_ends(log: Path, head: int, tail: int) -> bytes:
    """The first *head* and the last *tail* bytes of *log*, or all of it if it is not longer.

    Raises:
        OSError: it cannot be read.
    """
    with log.open("rb") as file:
        begin = file.read(head)
        size = file.seek(0, 2)
        if size <= head + tail:
            file.seek(len(begin))
            return begin + file.read(tail)
        file.seek(size - tail)
        return begin + f"\n[{size - head - tail} bytes omitted]\n".encode() + file.read(tail)
