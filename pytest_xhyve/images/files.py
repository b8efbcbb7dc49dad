"""Check that an image's files exist and are of the right kind, without reading a whole disk."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.formats.qcow2 import MAGIC
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.image import Image


def read_if_complete(manifest: Path) -> Image | None:
    """The image of *manifest*, or None if the manifest or one of the image's files is missing or unusable."""
    try:
        image = read_manifest(manifest)
    except ConfigurationError:
        return None
    files = (image.disk, image.kernel, image.initrd, image.key)
    return image if all(path.exists() for path in files if path is not None) else None


def check_files(image: Image) -> None:
    """Check the first bytes and the lengths of *image*'s files; this takes a millisecond.

    Raises:
        ImageError: a file is missing, unreadable, truncated or of the wrong kind; the message names the manifest's key.
    """
    files = {"disk": image.disk, "kernel": image.kernel, "initrd": image.initrd, "key": image.key}
    for key, path in files.items():
        if path is not None:
            _check_readable(key, path, image)
    if read_kernel_header(image.kernel) is None:
        raise ImageError(
            f"{image.manifest}: kernel: {image.kernel} is not a Linux kernel for x86-64 (a bzImage: /boot/vmlinuz-*, "
            f"not vmlinux)\n  {fix_for(image)}"
        )
    unusable = find_unusable(image.key)
    if unusable is not None:
        raise ImageError(f"{image.manifest}: key: {image.key} {unusable}")
    _check_disk(image)


def fix_for(image: Image) -> str:
    """The fix if a file of *image* does not match its manifest, for a message."""
    if "recipe" in image.made:
        return f"rebuild the image with `pytest-xhyve build --force {image.name}`"
    return f"repair the file, or correct {image.manifest}"


def _check_readable(key: str, path: Path, image: Image) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ImageError(
            f"{image.manifest}: {key}: cannot read {path}: {error.strerror}\n  {fix_for(image)}"
        ) from error
    if empty:
        raise ImageError(f"{image.manifest}: {key}: {path} is empty\n  {fix_for(image)}")


def _check_disk(image: Image) -> None:
    with image.disk.open("rb") as disk:
        found = "qcow2" if disk.read(len(MAGIC)) == MAGIC else "raw"
    if found != image.format:
        raise ImageError(
            f"{image.manifest}: format: {image.disk} is {found}, but the manifest states {image.format}\n"
            f"  write `format: {found}`, or name another disk"
        )
    size = image.disk.stat().st_size
    if image.size is not None and size != image.size:
        raise ImageError(
            f"{image.manifest}: size: {image.disk} has {size} bytes, but the manifest states {image.size}: it was "
            f"{'truncated' if size < image.size else 'altered'}\n  {fix_for(image)}"
        )
