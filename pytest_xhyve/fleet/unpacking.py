"""Unpack members of a bundle into files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pytest_xhyve.formats.bundle_file import BundleReader, DamagedBundle
from pytest_xhyve.formats.qcow2 import read_qcow2_header, set_backing
from pytest_xhyve.model.machine import DiskFormat

_ZEROS = bytes(1 << 16)


def unpack(reader: BundleReader, member: str, target: Path) -> None:
    """Write the content of *member* to the new file *target*; zeros become holes.

    Raises:
        DamagedBundle: the member is damaged.
        OSError: the file cannot be written.
    """
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for chunk in reader.read(member):
            for at in range(0, len(chunk), len(_ZEROS)):
                block = chunk[at : at + len(_ZEROS)]
                if block == _ZEROS:
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
        file.truncate(file.tell())


def unpack_checked(reader: BundleReader, member: str, digest: str, target: Path) -> None:
    """Like `unpack`, but the file must have the SHA-256 *digest*.

    Raises:
        DamagedBundle: it has another one.
    """
    unpack(reader, member, target)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise DamagedBundle(f"is damaged: {member} has another content than it states")


def set_base(path: Path, kind: str, base: Path | None, member: str) -> None:
    """Let the unpacked file *path* be based on *base*.

    Args:
        path: the file, which another person may have made.
        kind: its format: ``raw`` or ``qcow2``.
        base: a file; None if *path* stands alone.
        member: its name in the bundle.

    Raises:
        DamagedBundle: it is not what it should be.
    """
    if kind == "qcow2":
        try:
            set_backing(path, None if base is None else str(base))
        except ValueError as error:
            raise DamagedBundle(f"is damaged: {member}: {error}") from error
    elif base is not None:
        raise DamagedBundle(f"is damaged: {member} is not a qcow2 file")


def check_lower(path: Path, kind: str, member: str) -> None:
    """Check that the file *path*, which another one is based on, has the format *kind*.

    The file above may let QEMU take it for a qcow2 file. Its header could then name any file of this host.

    Raises:
        DamagedBundle: it has another one.
    """
    if kind == "raw" and read_qcow2_header(path) is not None:
        raise DamagedBundle(f"is damaged: {member} is a qcow2 file, and should not be one")


def format_of(path: Path) -> DiskFormat:
    """The format of a file that another one is based on."""
    return "raw" if read_qcow2_header(path) is None else "qcow2"
