"""The files behind disks (src/block_if.c in xhyve's sources)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass

from standin.commandline import Build, Ended
from standin.devices import BlockEmulation, disk_failure, parse_disk

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class OpenDisk:
    """A disk whose file is open.

    Attributes:
        fd: open for reading, and for writing unless *read_only*.
        read_only: because that was asked for, or because the file cannot be written.
        logical_size, physical_size: of a sector.
        serial: what the guest sees as the disk's serial number.
    """

    fd: int
    read_only: bool
    logical_size: int
    physical_size: int
    serial: str


def open_disk(config: str | None, build: Build, emulation: BlockEmulation) -> OpenDisk:
    """Open the disk of ``-s``.

    Raises:
        Ended: that cannot be.
    """
    disk = parse_disk(config, build, emulation)
    assert config is not None
    read_only = disk.read_only
    try:
        fd = os.open(disk.path, os.O_RDONLY if read_only else os.O_RDWR)
    except OSError as error:
        if read_only:
            raise _failure("Could not open backing file", emulation, error) from error
        try:
            fd = os.open(disk.path, os.O_RDONLY)
        except OSError as again:
            raise _failure("Could not open backing file", emulation, again) from again
        read_only = True
    status = os.fstat(fd)
    if build == "hyperkit":
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise _failure("Could not lock backing file", emulation, error) from error
    elif stat.S_ISCHR(status.st_mode):
        raise disk_failure("xhyve: raw device support unimplemented: Undefined error: 0", emulation)
    return OpenDisk(fd, read_only, _SECTOR, max(_SECTOR, status.st_blksize), _serial(config, build))


def _failure(what: str, emulation: BlockEmulation, error: OSError) -> Ended:
    text = os.strerror(error.errno or 0)
    return disk_failure(f"{what}: {text}", emulation, text)


def _serial(config: str, build: Build) -> str:
    """The number depends on all the text of ``-s``, hence on the file's name and not on what is in it."""
    kind = "md5" if build == "hyperkit" else "sha256"
    digits = hashlib.new(kind, os.fsencode(config), usedforsecurity=False).hexdigest().upper()
    return f"BHYVE-{digits[:4]}-{digits[4:8]}-{digits[8:12]}"
