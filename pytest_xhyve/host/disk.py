"""Disk space that files take."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

# fallocate(2)
_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02
_BLOCK = 4096


def size_on_disk(path: Path) -> int:
    """Bytes on the disk of the file at *path*, or of all files in a folder; holes and missing files count as 0."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            return sum(size_on_disk(inside) for inside in path.iterdir())
        return path.lstat().st_blocks * 512
    return 0


def punch_hole(path: Path, start: int, length: int) -> None:
    """Free the disk space of a part of the file at *path*, which then reads as zeros.

    Where that is impossible, this does nothing: on other systems than Linux, on a file system that cannot do it, or
    without permission to write the file.
    """
    if not sys.platform.startswith("linux"):
        return
    start, end = -(-start // _BLOCK) * _BLOCK, (start + length) // _BLOCK * _BLOCK
    offset, size = ctypes.c_int64(start), ctypes.c_int64(end - start)
    with contextlib.suppress(OSError), path.open("r+b") as file:
        ctypes.CDLL(None).fallocate(ctypes.c_int(file.fileno()), _KEEP_SIZE_AND_PUNCH_HOLE, offset, size)


def find_file_system(path: Path) -> str:
    """The type of the file system that *path* is on, as ``ext4`` or ``nfs4``; empty if it is unknown."""
    # Only the doctor needs it.
    import psutil  # noqa: PLC0415

    real = path.resolve()
    mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    above = [(mount, system) for mount, system in mounts if real.is_relative_to(mount)]
    # The last one mounted is the visible one.
    return max(enumerate(above), key=lambda each: (len(each[1][0].parts), each[0]))[1][1] if above else ""
