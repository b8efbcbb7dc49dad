"""Check that an image's files exist and are of the right kind, without reading a whole disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_xhyve.formats.disk_file import HEAD_BYTES, identify
from pytest_xhyve.formats.kernel import explain_other_kernel, identify_kernel
from pytest_xhyve.formats.private_key import find_unusable
from pytest_xhyve.formats.qcow2 import MAGIC
from pytest_xhyve.images.manifest import Manifest, read_manifest
from pytest_xhyve.model.architecture import architecture_of
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
    _check(files, image.manifest, image.arch, fix_for(image))
    _check_disk(image)


def check_stated_files(manifest: Manifest) -> None:
    """Like `check_files`, for the files that *manifest* states, but for the disk's format.

    Raises:
        ImageError: as `check_files`.
    """
    if manifest.path is None:
        return
    fix = f"repair the file, or correct {manifest.path}"
    _check(
        {key: manifest.values.get(key) for key in ("disk", "kernel", "initrd", "key")},
        manifest.path,
        manifest.arch,
        fix,
    )
    _check_size(manifest.path, manifest.disk, manifest.values.get("size"), fix)


def _check(files: Mapping[str, Path | None], manifest: Path, arch: str, fix: str) -> None:
    for key, path in files.items():
        if path is not None:
            _check_readable(key, path, manifest, fix)
    kernel, client_key = files["kernel"], files["key"]
    if kernel is not None:
        _check_kernel(kernel, manifest, arch, fix)
    unusable = None if client_key is None else find_unusable(client_key)
    if unusable is not None:
        raise ImageError(f"{manifest}: key: {client_key} {unusable}")


def _check_kernel(kernel: Path, manifest: Path, arch: str, fix: str) -> None:
    problem = explain_other_kernel(kernel, architecture_of(arch))
    if problem is None:
        return
    identified = identify_kernel(kernel)
    if identified is not None:
        fix = f"write `arch: {identified[0].name}`, or name a kernel for {arch}"
    raise ImageError(f"{manifest}: kernel: {kernel} {problem}\n  {fix}")


def fix_for(image: Image) -> str:
    """The fix if a file of *image* does not match its manifest, for a message."""
    if "recipe" in image.made:
        return f"rebuild the image with `pytest-xhyve build --force {image.name}`"
    return f"repair the file, or correct {image.manifest}"


def _check_readable(key: str, path: Path, manifest: Path, fix: str) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ImageError(f"{manifest}: {key}: cannot read {path}: {error.strerror}\n  {fix}") from error
    if empty:
        raise ImageError(f"{manifest}: {key}: {path} is empty\n  {fix}")


def _check_disk(image: Image) -> None:
    with image.disk.open("rb") as disk:
        head = disk.read(HEAD_BYTES)
    kind = identify(head)
    if kind.kind == "compressed":
        raise ImageError(
            f"{image.manifest}: disk: {image.disk} is compressed by {kind.name}\n"
            f"  unpack it: {kind.name} --keep --decompress {image.disk.name}"
        )
    found = "qcow2" if head.startswith(MAGIC) else "raw"
    if found != image.format:
        raise ImageError(
            f"{image.manifest}: format: {image.disk} is {found}, but the manifest states {image.format}\n"
            f"  write `format: {found}`, or name another disk"
        )
    _check_size(image.manifest, image.disk, image.size, fix_for(image))


def _check_size(manifest: Path, disk: Path, stated: int | None, fix: str) -> None:
    size = disk.stat().st_size
    if stated is not None and size != stated:
        raise ImageError(
            f"{manifest}: size: {disk} has {size} bytes, but the manifest states {stated}: it was "
            f"{'truncated' if size < stated else 'altered'}\n  {fix}"
        )
