"""Templates whose image is elsewhere than when they were saved: the cache folder or the image was moved or copied."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_xhyve.formats.qcow2 import set_backing
from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.layer_file import relative_to_cache
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.templates.store import ABOUT, Template


def is_over(disk: Disk, image: Image, checked: Path) -> bool:
    """Whether the files that *disk*, a template's first, is based on have the content of the disk of *image*.

    A template's disk names the image's disk by its path. The same content may be at another path now.

    Args:
        disk: the disk; it has the image's content itself if it is based on no file.
        image: the image; the template was made of the same content.
        checked: the folder of remembered digests.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        files = backing_files(disk.path, disk.format)
        wanted = (image.disk, *backing_files(image.disk, image.format))
    except ImageError:
        # The file that the disk names is gone.
        return False
    if not files or _same_places(files, wanted):
        return True
    return [known_digest(file, checked) for file in files] == [known_digest(file, checked) for file in wanted]


def copy_over(template: Template, image: Image, folder: Path) -> tuple[Disk, ...]:
    """Copy the files of *template* into *folder*, and put its first disk over the disk of *image*.

    Args:
        template: a template of the same content as *image*; nothing removes it meanwhile.
        image: the image.
        folder: an empty folder, ``CACHE/ROOM/NAME``.

    Returns:
        the disks in *folder*.

    Raises:
        ValueError: the disk cannot get another base.
        OSError: a file cannot be copied.
    """
    for path in template.folder.iterdir():
        if path.name != ABOUT:
            clone_file(path, folder / path.name)
            (folder / path.name).chmod(0o600)
    disks = tuple(Disk(folder / disk.path.name, disk.format) for disk in template.disks)
    set_backing(disks[0].path, relative_to_cache(image.disk, folder))
    return disks


def _same_places(files: tuple[Path, ...], others: tuple[Path, ...]) -> bool:
    return [os.path.realpath(file) for file in files] == [os.path.realpath(file) for file in others]
