"""The files of the images in a bundle, if it has them: each once, named by its content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.images.backing import backing_files

_FOLDER = "image-files"


def member(number: int) -> str:
    """The name of the member with the file *number*."""
    return f"{_FOLDER}/f{number}"


class ImageFiles:
    """The files of the images of *guests*: disks, what these are based on, kernels and initial RAM disks.

    Args:
        guests: the guests.
        checked: the folder of remembered digests.
    """

    def __init__(self, guests: Iterable[Guest], checked: Path) -> None:
        self._files: dict[str, Path] = {}
        for guest in guests:
            image, machine = guest.image, guest.machine
            disks = (image.disk, *backing_files(image.disk, image.format))
            for path in (*disks, machine.kernel, machine.initrd):
                if path is not None:
                    self._files.setdefault(known_digest(path, checked), path)

    @property
    def digests(self) -> list[str]:
        """The SHA-256 of each file, in the order of their numbers."""
        return list(self._files)

    def members(self) -> Iterator[tuple[str, Path]]:
        """The name of the member and the path of each file."""
        for number, path in enumerate(self._files.values()):
            yield member(number), path
