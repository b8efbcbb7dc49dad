"""The memory that this process may use: the host's, or less if a control group limits it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory, in bytes.

    Attributes:
        total: all of it.
        available: what a process can get now, without swapping.
        owner: what has the limit: ``this host``, or a control group with its folder.
    """

    total: int
    available: int
    owner: str


def read_memory(root: Path = Path("/")) -> Memory:
    """The memory of the host, or that of the control group with the lowest limit, if it is less.

    Source: the kernel's ``cgroup-v2.rst`` (``memory.max``) and ``cgroup-v1/memory.rst`` (``memory.limit_in_bytes``).
    A group's limit counts for the groups below it, and in a container the groups above are not visible.

    Args:
        root: contains ``proc`` and ``sys``.
    """
    host = psutil.virtual_memory()
    found = [Memory(host.total, host.available, "this host"), *_read_groups(root)]
    least = min(found, key=lambda memory: memory.total)
    return Memory(least.total, min(memory.available for memory in found), least.owner)


def _read_groups(root: Path) -> Iterator[Memory]:
    for folder, names in _group_folders(root):
        limit = _read_number(folder / names.limit)
        if limit is not None:
            # Cached files count as used, but the kernel frees them before it refuses memory.
            used = (_read_number(folder / names.used) or 0) - _read_cached(folder / "memory.stat", names.cached)
            yield Memory(limit, max(0, limit - used), f"the control group {folder}")


@dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    used: str
    cached: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def _group_folders(root: Path) -> Iterator[tuple[Path, _Names]]:
    """The folders of this process's control groups, from the innermost up, and the names of their files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        # HIERARCHY:CONTROLLERS:PATH, cgroups(7); version 2 has the number 0 and no controllers.
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = mount, _V2
        elif "memory" in controllers.split(","):
            base, names = mount / "memory", _V1
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        # A path with ".." is outside of this namespace.
        inside = [] if ".." in inner.parts else [inner, *inner.parents]
        yield from ((base / group, names) for group in inside or [PurePosixPath()])


def _read_number(file: Path) -> int | None:
    """The number in *file*; None if it is missing or contains ``max``."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _read_cached(file: Path, name: str) -> int:
    try:
        found = [line.split()[1] for line in file.read_text().splitlines() if line.startswith(f"{name} ")]
        return int(found[0]) if found else 0
    except (OSError, ValueError, IndexError):
        return 0
