"""The files that a qcow2 disk is based on (backing files, qemu-img(1))."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image

_MAX_FILES = 16


def backing_files(disk: Path, kind: str) -> tuple[Path, ...]:
    """The files that *disk* is based on, the nearest first; none if it is not a qcow2 file, or stands alone.

    Args:
        disk: the disk's file.
        kind: its format, as QEMU opens it. A guest writes the first bytes of a raw disk, and could write there that
            the disk is based on a file of the user.

    Raises:
        ImageError: one of them is missing, encrypted, based on itself, or has its data elsewhere.
        OSError: one of them cannot be read.
    """
    chain: list[Path] = []
    file = disk.absolute()
    if kind == "raw":
        return ()
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
        if header.backing_format == "raw":
            break
        file = backing
    return tuple(chain)


def folders_of(disk: Path) -> set[Path]:
    """The folders, without symbolic links, of *disk* and of the files that it is based on, as far as they exist."""
    try:
        files = backing_files(disk, "qcow2")
    except (OSError, ImageError):
        # It is being removed, or is damaged.
        files = ()
    return {file.parent.resolve() for file in (disk, *files)}


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
        files = backing_files(disk, "qcow2")
        return not files or [known_digest(file, checked) for file in files] == list(digests)
    except ImageError:
        return False


def check_base(image: Image, checked: Path) -> None:
    """Check that the files below the disk of *image*, if it is a layer, are those that it was made over.

    Args:
        image: any image.
        checked: the folder of remembered digests.

    Raises:
        ImageError: one of them is missing or was altered.
    """
    if image.extends is None:
        return
    fix = f"make {image.name} again over the {image.extends.image} of today, or restore that file"
    try:
        files = backing_files(image.disk, image.format)
    except ImageError as error:
        raise ImageError(
            f"image {image.name} is a layer over {image.extends.image}, which is gone: {str(error).splitlines()[0]}\n"
            f"  {fix}"
        ) from error
    digests = [known_digest(file, checked) for file in files]
    for file, digest, stated in zip(files, digests, image.extends.sha256, strict=False):
        if digest != stated:
            raise ImageError(
                f"image {image.name} is a layer over {image.extends.image}, which was altered: the SHA-256 of {file} "
                f"is {digest}, but {image.manifest} states {stated}\n  {fix}"
            )
    if len(files) != len(image.extends.sha256):
        raise ImageError(
            f"{image.manifest}: extends: {image.disk} is based on {len(files)} files, but the manifest states "
            f"{len(image.extends.sha256)}\n  {fix}"
        )
