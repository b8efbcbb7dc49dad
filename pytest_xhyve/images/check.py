"""Check, before a guest boots, that an image's files match its manifest."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.formats.mbr import SECTOR, has_boot_loader, has_signature
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.images.backing import backing_files, check_base
from pytest_xhyve.images.files import check_files, fix_for
from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import Firmware


def check_image(image: Image, cache: Path) -> None:
    """Check the files of *image*, and those below it; a SHA-256 is computed again only if its file has changed.

    Args:
        image: the image.
        cache: the folder for the digests of files and the state of each file.

    Raises:
        ImageError: a file is missing, unreadable, truncated, altered, or of the wrong kind; or the disk has its data in
            another file, which may be any file of the user.
    """
    if image.extends is not None:
        # First, as the layer's own file may be right without the files below it.
        check_base(image, cache)
    check_files(image)
    if image.extends is None:
        backing_files(image.disk, image.format)
    if image.sha256 is not None:
        _check_digest(image, cache)


def check_boots_by(firmware: Firmware | None, image: Image) -> None:
    """Check that the disk of *image* has what *firmware* boots, as far as its first sector shows.

    Args:
        firmware: what boots the guest; None for a direct boot of the kernel.
        image: an image whose files were checked.

    Raises:
        ImageError: no guest can boot from the disk by *firmware*.
    """
    if firmware == "bios" and image.arch != X86_64.name:
        raise ImageError(f'firmware="bios": a machine of {image.arch} has no BIOS\n  use firmware="uefi"')
    if firmware is None or image.format != "raw":
        return
    with image.disk.open("rb") as disk:
        sector = disk.read(SECTOR)
    if has_signature(sector) and (firmware == "uefi" or has_boot_loader(sector)):
        return
    missing = "boot loader for a BIOS" if has_signature(sector) else "boot loader, and no partition table"
    direct = "\n  leave firmware out: guests of this image boot its kernel directly" if image.kernel is not None else ""
    raise ImageError(f'firmware="{firmware}": {image.disk} has no {missing}{direct}')


def _check_digest(image: Image, cache: Path) -> None:
    digest = known_digest(image.disk, cache)
    if digest != image.sha256:
        raise ImageError(
            f"{image.disk} was altered: its SHA-256 is {digest}, but {image.manifest} states {image.sha256}\n"
            f"  {fix_for(image)}"
        )
