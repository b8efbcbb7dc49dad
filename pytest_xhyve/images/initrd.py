"""Build the initial RAM disk: a cpio archive with BusyBox, a script, and the modules for the root disk."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pytest_xhyve.model.errors import ImageError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive: its path, its mode including the file type, its content."""

    path: str
    mode: int
    content: bytes = b""


def build_initrd(root: tarfile.TarFile, boot_modules: Sequence[str], init: bytes) -> bytes:
    """The initial RAM disk for the system in *root*.

    It is not compressed, because the host reads it faster than an emulated CPU unpacks it.

    Args:
        root: the archive of the root file system, with a kernel's modules and BusyBox.
        boot_modules: names of modules to load; the modules that they depend on are added.
        init: the script that the kernel starts.

    Raises:
        ImageError: the root file system does not contain BusyBox or a module.
    """
    members = {member.name.removeprefix("./"): member for member in root}

    def read(path: str) -> bytes:
        file = root.extractfile(members[path])
        assert file is not None
        return file.read()

    busybox = _first(members, ("usr/bin/busybox", "bin/busybox"))
    listed = next((path for path in members if path.endswith("/modules.dep")), None)
    if listed is None:
        raise ImageError("the root file system has no kernel modules (no modules.dep)")
    folder = PurePosixPath(listed).parent
    modules = [folder / path for path in _in_load_order(read(listed).decode(), boot_modules)]
    entries = [
        Entry("init", stat.S_IFREG | 0o755, init),
        Entry("bin/busybox", stat.S_IFREG | 0o755, read(busybox)),
        Entry("modules", stat.S_IFREG | 0o644, "".join(f"/lib/{path.name}\n" for path in modules).encode()),
        *(Entry(f"lib/{path.name}", stat.S_IFREG | 0o644, read(str(path))) for path in modules),
    ]
    return cpio_archive([*_folders(entries), *entries])


def cpio_archive(entries: Sequence[Entry]) -> bytes:
    """An archive in cpio's "newc" format, which Linux unpacks (Documentation/driver-api/early-userspace)."""
    archive = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4)
        archive += entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _folders(entries: Sequence[Entry]) -> list[Entry]:
    paths = {str(parent) for entry in entries for parent in PurePosixPath(entry.path).parents} - {"."}
    return [Entry(path, stat.S_IFDIR | 0o755) for path in sorted(paths | {"dev", "proc", "sys", "root"})]


def _in_load_order(modules_dep: str, wanted: Sequence[str]) -> list[str]:
    """The paths of *wanted* and of their dependencies; each follows its dependencies (modules.dep(5))."""
    needs = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {PurePosixPath(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}

    def walk(name: str) -> Iterator[str]:
        if name not in by_name:
            raise ImageError(f"the kernel has no module {name!r}")
        path = by_name[name]
        yield from reversed(needs[path])
        yield path

    return list(dict.fromkeys(path for name in wanted for path in walk(name.replace("-", "_"))))


def _first(members: Mapping[str, object], paths: Sequence[str]) -> str:
    for path in paths:
        if path in members:
            return path
    raise ImageError(f"the root file system has no {' or '.join(paths)}")
