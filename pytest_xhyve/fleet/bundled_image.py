"""Find the image of a saved guest on this host: by its content, wherever it is."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ImageError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.templates.saved_guest import SavedFile, SavedImage

_FOLDERS = ("images/*.yaml", "prepared/*/manifest.yaml")
_SHOWN_DIGITS = 16
# A kernel, an initial RAM disk and a manifest are smaller.
_MOST_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class FoundImage:
    """The image of a saved guest.

    Attributes:
        image: the image on this host, with the saved guest's user and host keys.
        kernel: the kernel that the saved guest ran, or None.
        initrd: its initial RAM disk, or None.
    """

    image: Image
    kernel: Path | None
    initrd: Path | None


def find_image(saved: SavedImage, home: Home, given: Path | None) -> FoundImage:
    """The image with the content that *saved* states.

    Args:
        saved: the image of a saved guest.
        home: the cache folder.
        given: the manifest of the image, if the user names it.

    Raises:
        ImageError: it is not on this host; the message states how to get it.
    """
    checked = home.folder("checked")
    for manifest in [given] if given is not None else filter(_may_be_read, _candidates(saved, home)):
        # A manifest of an image that has nothing to do with it may be invalid, or without its disk.
        with contextlib.suppress(XhyveError, OSError):
            image = read_manifest(manifest)
            if _is_it(image, saved, checked):
                files = [(saved.kernel, image.kernel), (saved.initrd, image.initrd)]
                kernel, initrd = (_file(wanted, here, checked) for wanted, here in files)
                return FoundImage(replace(image, user=saved.user, host_keys=saved.host_keys), kernel, initrd)
    where = f"{given} is not it" if given is not None else f"looked for it at {saved.manifest} and in {home.path}"
    raise ImageError(
        f"the image {saved.name} of the saved guest is not here: its disk has the SHA-256 "
        f"{saved.disk.digest[:_SHOWN_DIGITS]}…; {where}\n"
        f"  copy {saved.manifest} and the files that it names from the host that saved the guest,\n"
        "  and name the copy of the manifest: --image FILE.yaml\n"
        "  (with --xhyve-save-failures-with-images, bundles have their images)\n"
        "  an image of the catalog that is built again has another content"
    )


def _candidates(saved: SavedImage, home: Home) -> Iterator[Path]:
    yield Path(saved.manifest)
    for pattern in _FOLDERS:
        yield from sorted(home.path.glob(pattern))


def _is_it(image: Image, saved: SavedImage, checked: Path) -> bool:
    if image.sha256 is not None and image.sha256 != saved.disk.digest:
        return False
    return (
        image.format == saved.format
        and known_digest(image.disk, checked) == saved.disk.digest
        and tuple(known_digest(path, checked) for path in backing_files(image.disk, image.format)) == saved.backing
    )


def _file(wanted: SavedFile | None, here: Path | None, checked: Path) -> Path | None:
    """The file of this host with the content of *wanted*: that of the image, or the one at its own path."""
    if wanted is None:
        return None
    for path in (here, Path(wanted.path)):
        if path is not None and _may_be_read(path) and known_digest(path, checked) == wanted.digest:
            return path
    raise ImageError(f"{wanted.path} is not here, which the saved guest boots")


def _may_be_read(path: Path) -> bool:
    """Whether a file that a bundle may have named has an end: a device, a FIFO and some files of /proc have none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    # Those of /proc and /sys have no blocks on a disk.
    return stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _MOST_BYTES and status.st_blocks > 0
