"""The files that a qcow2 disk is based on (backing files, qemu-img(1))."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.images.check import known_digest
from pytest_xhyve.model.errors import ImageError

_MAX_FILES = 16


def backing_files(disk: Path) -> tuple[Path, ...]:
    """The files that *disk* is based on, the nearest first; none if it is not a qcow2 file, or stands alone.

    Raises:
        ImageError: one of them is missing, encrypted, based on itself, or has its data elsewhere.
        OSError: one of them cannot be read.
    """
    chain: list[Path] = []
    file = disk.absolute()
    while (header := read_qcow2_header(file)) is not None:
        if header.encrypted:
            raise ImageError(
                f"{file} is an encrypted qcow2 file\n  convert it with `qemu-img convert` and its passphrase"
            )
        if header.has_data_file:
            # The name may be that of any file of the user, which a guest could then read as its disk.
            raise ImageError(
                f"{file} has its data in another file, which the plugin does not read\n"
                f"  if you trust it, make one file of both: `qemu-img convert -O qcow2 {file.name} whole.qcow2`"
            )
        if header.backing is None:
            break
        # A relative name is relative to the file that has it.
        backing = file.parent / header.backing.removeprefix("file:")
        if not backing.is_file():
            raise ImageError(
                f"{disk} is based on {backing}, which is missing\n"
                f"  copy that file there too, or make one file of both where both are: "
                f"`qemu-img convert -O qcow2 {disk.name} whole.qcow2`"
            )
        if backing in chain or len(chain) == _MAX_FILES:
            raise ImageError(f"{disk} is based on itself, by way of {backing}")
        chain.append(backing)
        file = backing
    return tuple(chain)


def is_valid_layer(disk: Path, digests: Sequence[str], checked: Path) -> bool:
    """Whether *disk* stands alone, or the files that it is based on have these contents.

    A layer names the file that it was made over. That file may have been changed or removed since, and the disk that a
    test wants may be a copy of it.

    Args:
        disk: a layer.
        digests: the SHA-256 of each file, the nearest first.
        checked: the folder of remembered digests.
    """
    try:
        files = backing_files(disk)
        return not files or [known_digest(file, checked) for file in files] == list(digests)
    except ImageError:
        return False
