"""Look into a disk on the host, without a guest: ext4 on a raw disk, by debugfs(8) of e2fsprogs.

debugfs reads the file system as an ordinary user, and mounts nothing. It gets numbers of inodes and never a name from
the disk. What is not plain is left to the helper guest, which knows all file systems: `look_on_host` returns None.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pytest_xhyve.formats.mbr import SECTOR
from pytest_xhyve.formats.partition_table import HEAD_BYTES, Partition, read_partitions
from pytest_xhyve.host.processes import run_program
from pytest_xhyve.model.text import is_number
from pytest_xhyve.preparation.disk_file import DiskFile
from pytest_xhyve.preparation.facts import DISK, Facts
from pytest_xhyve.preparation.helper_guest import READ

NAME = "debugfs"
"""The program, and how the report names this reader."""

_ROOT_INODE = 2
_MOST_LINKS = 16
_MOST_BYTES = 1 << 20
_MOST_BOOT_FILES = 200
_MOST_USERS = 50
_MOST_FILES = 200
_MOST_DEPTH = 4
_SECONDS = 20.0
# Offsets in the superblock of ext4, which is at byte 1024 (fs/ext4/ext4.h in Linux).
_SUPERBLOCK = 1024
_MAGIC_AT, _INCOMPAT_AT, _NEEDS_RECOVERY = 0x38, 0x60, 0x4
# The types of partitions that need no look: GRUB's own one for a BIOS.
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
# "/131/100644/0/0/name/83/"; a folder has no size.
_ENTRY = re.compile(r"^/(\d+)/(\d{6})/\d+/\d+/([^/]+)/(\d*)/$", re.MULTILINE)
_LINK = re.compile(r'^Fast link dest: "(.*)"$', re.MULTILINE)
_LINKS_THAT_START_SSH = (
    (r"etc/systemd/system", r".*\.wants", r"(?:ssh|dropbear).*\.service|ssh.*\.socket"),
    (r"usr/lib/systemd/system", r"multi-user\.target\.wants", r"ssh.*\.service"),
    (r"etc", r"rc.\.d", r"S..(?:ssh|dropbear)"),
    (r"etc/runlevels", r".*", r"sshd|dropbear"),
)
_THERE = (
    *("usr/sbin/sshd", "usr/bin/sshd", "usr/sbin/dropbear", "usr/lib/systemd/systemd", "lib/systemd/systemd"),
    *("usr/bin/cloud-init", "usr/bin/sudo", "usr/sbin/netplan", "usr/sbin/ifup", "sbin/ifup"),
    *("usr/sbin/setfiles", "sbin/setfiles"),
    *("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd", "usr/sbin/NetworkManager"),
    *("etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ecdsa_key", "etc/ssh/ssh_host_rsa_key"),
)


class _CannotRead(Exception):
    """The file system is not plain, or debugfs refused."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An inode, by its number and mode (inode(7)), and its size in bytes."""

    inode: int
    mode: int
    size: int = 0


class HostReader:
    """Reads the root file system of a raw disk.

    Args:
        program: debugfs.
        disk: the disk.
        offset: the first byte of the file system.
    """

    def __init__(self, program: str, disk: Path, offset: int) -> None:
        self._program = program
        self._device = f"{disk}?offset={offset}" if offset else str(disk)
        self._folders: dict[int, dict[str, _Entry]] = {}

    def find(self, path: str) -> _Entry | None:
        """The file or folder that *path* leads to in the system, by way of its symbolic links."""
        parts, entry, at = path.strip("/").split("/"), _Entry(_ROOT_INODE, stat.S_IFDIR), ""
        links = 0
        while parts:
            part = parts.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                parts, entry, at = [*posixpath.dirname(at).split("/"), *parts], _Entry(_ROOT_INODE, stat.S_IFDIR), ""
                continue
            found = self.entries(entry).get(part)
            if found is None:
                return None
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > _MOST_LINKS:
                    return None
                target = self._target(found)
                before = "" if target.startswith("/") else at
                parts, at = [*f"{before}/{target}".split("/"), *parts], ""
                entry = _Entry(_ROOT_INODE, stat.S_IFDIR)
                continue
            entry, at = found, f"{at}/{part}"
        return entry

    def entries(self, folder: _Entry | None) -> dict[str, _Entry]:
        """What is in *folder*, by name; nothing if it is not a folder."""
        if folder is None or not stat.S_ISDIR(folder.mode):
            return {}
        if folder.inode not in self._folders:
            output = self._run(f"ls -p <{folder.inode}>")
            self._folders[folder.inode] = {
                name: _Entry(int(inode), int(mode, 8), int(size or 0))
                for inode, mode, name, size in _ENTRY.findall(output)
                if name not in (".", "..")
            }
        return self._folders[folder.inode]

    def read(self, file: _Entry | None, most: int = _MOST_BYTES) -> bytes | None:
        """The content of *file*; None if it is not a file, or has more than *most* bytes."""
        # The size first: debugfs would write all of a sparse file.
        if file is None or not stat.S_ISREG(file.mode) or file.size > most:
            return None
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "file"
            self.copy(file, target)
            return target.read_bytes()

    def copy(self, file: _Entry, target: Path) -> None:
        """Copy the content of *file* to the new file *target*."""
        self._run(f"dump <{file.inode}> {target.name}", target.parent)
        if not target.is_file():
            raise _CannotRead(f"no copy of <{file.inode}>")

    def _target(self, link: _Entry) -> str:
        match = _LINK.search(self._run(f"stat <{link.inode}>"))
        if match is None:
            raise _CannotRead("a long symbolic link")
        return match[1]

    def _run(self, command: str, folder: Path | None = None) -> str:
        argv = [self._program, "-c", "-R", command, self._device]
        try:
            done = run_program(argv, timeout=_SECONDS, cwd=folder)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _CannotRead(str(error)) from error
        # Its first line states the version.
        trouble = done.stderr.splitlines()[1:]
        if done.returncode != 0 or any(trouble):
            raise _CannotRead(" ".join(trouble))
        return done.stdout


def open_on_host(disk: DiskFile) -> tuple[HostReader, Facts] | None:
    """A reader of the system on *disk*, and what is known of the disk's volumes.

    Returns:
        None if this host has no debugfs, or if the disk is not a raw one whose only system is on ext4.
    """
    program = shutil.which(NAME, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if program is None or disk.format != "raw" or "?" in str(disk.path):
        return None
    try:
        return _open(program, disk.path)
    except (_CannotRead, OSError, struct.error):
        return None


def look_on_host(disk: DiskFile) -> Facts | None:
    """What is on *disk*, as the helper guest would find it; None if that has to look itself."""
    opened = open_on_host(disk)
    if opened is None:
        return None
    reader, facts = opened
    try:
        return _describe(reader, facts)
    except (_CannotRead, OSError):
        return None


def _open(program: str, disk: Path) -> tuple[HostReader, Facts]:
    with disk.open("rb") as file:
        head = file.read(HEAD_BYTES)
        table = read_partitions(head)
        if table is None:
            raise _CannotRead("a partition table that is not plain")
        kind, partitions = table
        lines = [f"table\t{kind}", f"boot_code\t{head[:2].hex()}"]
        roots = []
        for volume in partitions or (Partition(0, 0, disk.stat().st_size, ""),):
            device = f"{DISK}{volume.number or ''}"
            content = _content_of(file.fileno(), volume)
            lines += [f"volume\t{device} {content}", f"size\t{device} {volume.size}", f"entry\t{device} {volume.type}"]
            if content == "ext4":
                reader = HostReader(program, disk, volume.start)
                if _is_root(reader):
                    roots.append(reader)
                    lines.append(f"root\t{device} ext4 ")
    if len(roots) != 1:
        raise _CannotRead("not one system")
    return roots[0], Facts.parse("\n".join(lines))


def _content_of(fd: int, volume: Partition) -> str:
    """The type of the volume's content, of the types that need no more than debugfs."""
    if volume.type == _BIOS_BOOT:
        return ""
    superblock = os.pread(fd, SECTOR, volume.start + _SUPERBLOCK)
    if superblock[_MAGIC_AT : _MAGIC_AT + 2] == b"\x53\xef":
        (features,) = struct.unpack_from("<I", superblock, _INCOMPAT_AT)
        if features & _NEEDS_RECOVERY:
            raise _CannotRead("a journal that has to be replayed")
        return "ext4"
    if os.pread(fd, 10, volume.start + 4086) == b"SWAPSPACE2":
        return "swap"
    raise _CannotRead("another file system")


def _is_root(reader: HostReader) -> bool:
    """As in look.sh."""
    has_name = reader.find("etc/os-release") or reader.find("etc/passwd")
    return has_name is not None and (reader.find("usr") or reader.find("lib")) is not None


def _describe(reader: HostReader, facts: Facts) -> Facts:
    """*facts* with what is in the system, by the keys of look.sh."""
    fstab = (reader.read(reader.find("etc/fstab")) or b"").decode("utf-8", "replace")
    if re.search(r"^[^#\s]+\s+/(?:boot|boot/\S*|usr|var)\s", fstab, re.MULTILINE):
        raise _CannotRead("more than one file system")
    values = {key: list(found) for key, found in facts.values.items()}
    shell = reader.find("bin/sh")
    # ELF's magic, and e_machine.
    program = reader.read(shell, 1 << 27) or b""
    if len(program) >= 20:
        values["elf"] = [program[1:4].decode("latin-1")]
        values["architecture"] = [str(struct.unpack_from("<H", program, 18)[0])]
    values["there"] = [path for path in _THERE if reader.find(path) is not None]
    values["starts_ssh"] = list(_links_that_start_ssh(reader))
    values["user"] = list(islice(_users(reader), _MOST_USERS))
    boot = sorted(reader.entries(reader.find("boot")))[:_MOST_BOOT_FILES]
    is_file = (stat.S_ISREG(entry.mode) for name in boot if (entry := reader.find(f"boot/{name}")) is not None)
    values["boot"] = [name for name, regular in zip(boot, is_file, strict=False) if regular]
    found = {key: tuple(value) for key, value in values.items() if value}
    return replace(facts, values=found, files=dict(_small_files(reader)), examined_by=NAME)


def _links_that_start_ssh(reader: HostReader) -> Iterator[str]:
    for folder, wanted, link in _LINKS_THAT_START_SSH:
        for name, entry in sorted(reader.entries(reader.find(folder)).items()):
            if not re.fullmatch(wanted, name):
                continue
            for each, target in sorted(reader.entries(entry).items()):
                if re.fullmatch(link, each) and stat.S_ISLNK(target.mode):
                    yield f"{folder}/{name}/{each}"


def _users(reader: HostReader) -> Iterator[str]:
    """Root and the people of passwd(5), with the state of the password; the hashes stay here."""
    records = [
        [line.split(":") for line in (reader.read(reader.find(path)) or b"").decode("utf-8", "replace").splitlines()]
        for path in ("etc/shadow", "etc/passwd")
    ]
    hashes = {fields[0]: fields[1] for fields in records[0] if len(fields) >= 8}
    for name, password, uid, _, _, _, shell in (fields for fields in records[1] if len(fields) == 7):
        if is_number(uid) and (int(uid) == 0 or 1000 <= int(uid) < 60000):
            of = hashes.get(name, password)
            state = "none" if of == "" else "locked" if of[0] in "!*" or of == "x" else "set"
            yield f"{name} {uid} {state} {shell}"


def _small_files(reader: HostReader) -> Iterator[tuple[str, bytes]]:
    paths = islice((path for wanted in READ for path in _files_below(reader, wanted)), _MOST_FILES)
    for path in paths:
        content = reader.read(reader.find(path))
        if content is not None:
            yield path, content


def _files_below(reader: HostReader, path: str, depth: int = 0) -> Iterator[str]:
    """*path* if it is a file; of a folder, all files in it."""
    entry = reader.find(path)
    if entry is not None and stat.S_ISREG(entry.mode):
        yield path
    elif entry is not None and depth < _MOST_DEPTH:
        for name in sorted(reader.entries(entry)):
            yield from _files_below(reader, f"{path}/{name}", depth + 1)
