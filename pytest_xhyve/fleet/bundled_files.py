"""The images of a bundle's guests: on this host, or else in the bundle, if it was saved with them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from pytest_xhyve.fleet.bundle import Bundle, explained
from pytest_xhyve.fleet.bundled_image import FoundImage, find_image
from pytest_xhyve.fleet.unpacking import format_of, set_base, unpack_checked
from pytest_xhyve.formats.bundle_file import DamagedBundle
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.keys import client_key
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.templates.image_files import member
from pytest_xhyve.templates.saved_guest import SavedFile, SavedGuest


class BundledImages:
    """Finds images.

    Args:
        bundle: the bundle.
        home: the cache folder.
        folder: gets the files of images that only the bundle has.
        given: the manifest of the image, if the user names it.
        report: gets a line about what takes long.
    """

    def __init__(
        self, bundle: Bundle, home: Home, folder: Path, given: Path | None, report: Callable[[str], None]
    ) -> None:
        self._bundle = bundle
        self._home = home
        self._folder = folder
        self._given = given
        self._report = report
        self._unpacked: dict[str, Path] = {}

    def find(self, guest: SavedGuest) -> FoundImage:
        """The image of *guest*.

        Raises:
            ImageError: it is neither on this host nor in the bundle.
            BundleError: it is in the bundle, and damaged.
            OSError: it cannot be unpacked.
        """
        try:
            return find_image(guest.image, self._home, self._given)
        except ImageError:
            if self._given is not None or guest.image.disk.digest not in self._bundle.image_files:
                raise
        with explained(self._bundle.path):
            return self._unpack(guest)

    def _unpack(self, guest: SavedGuest) -> FoundImage:
        saved = guest.image
        if saved.disk.digest not in self._unpacked:
            self._report(f"unpacking the image {saved.name}, which is not here")
        files = [self._file(digest) for digest in (saved.disk.digest, *saved.backing)]
        kinds = [saved.format, *map(format_of, files[1:])]
        # If two images have a file in common, it is based on the same one in both.
        for path, kind, base in zip(files, kinds, [*files[1:], None], strict=True):
            set_base(path, kind, base, saved.name)
        key, _ = client_key(self._home.folder("keys"))
        kernel, initrd = self._stated(saved.kernel), self._stated(saved.initrd)
        image = Image(
            name=saved.name,
            manifest=self._folder / "manifest.yaml",
            arch=saved.arch,
            disk=files[0],
            format="qcow2" if saved.format == "qcow2" else "raw",
            size=None,
            sha256=None,
            kernel=kernel,
            initrd=initrd,
            cmdline=guest.cmdline,
            user=saved.user,
            key=key,
            host_keys=saved.host_keys,
            cpus=guest.cpus,
            memory=guest.memory,
            cpu=guest.cpu,
            firmware=guest.firmware,
        )
        return FoundImage(image, kernel, initrd)

    def _stated(self, file: SavedFile | None) -> Path | None:
        return None if file is None else self._file(file.digest)

    def _file(self, digest: str) -> Path:
        """The unpacked file with this *digest*."""
        if digest not in self._unpacked:
            if digest not in self._bundle.image_files:
                raise DamagedBundle("is damaged: a file of an image is missing")
            target = self._folder / secrets.token_hex(8)
            unpack_checked(self._bundle.reader, member(self._bundle.image_files.index(digest)), digest, target)
            self._unpacked[digest] = target
        return self._unpacked[digest]
