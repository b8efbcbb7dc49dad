"""The catalog: images by name, and by the path of a disk or a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pytest_xhyve.errors import ConfigurationError
from pytest_xhyve.home import Home
from pytest_xhyve.images.manifest import Image, read_manifest
from pytest_xhyve.images.recipe import RECIPES, recipe_names
from pytest_xhyve.settings import nearest

_MANIFEST_SUFFIXES = (".yaml", ".yml")


class Catalog:
    """The images of this user.

    Args:
        home: the plugin's folder.
        report: gets a line when something takes long.
    """

    def __init__(self, home: Home, report: Callable[[str], None]) -> None:
        self._home = home
        self._report = report
        self._found: dict[str, Image] = {}

    def find(self, wanted: str | os.PathLike[str] | Image) -> Image:
        """The image that *wanted* means, built first where the catalog has only its recipe; looked up once.

        Args:
            wanted: an image, a name of the catalog, the path of a manifest, or of a disk with a manifest beside it.

        Raises:
            ConfigurationError: there is no such image, or its manifest is wrong.
            ImageError: it cannot be built.
        """
        if isinstance(wanted, Image):
            return wanted
        text = os.fspath(wanted)
        if text not in self._found:
            self._found[text] = self._find(text)
        return self._found[text]

    def _find(self, wanted: str) -> Image:
        manifest = find_manifest(wanted)
        if manifest is not None:
            image = read_manifest(manifest)
            if Path(wanted).suffix not in _MANIFEST_SUFFIXES and image.disk.name != Path(wanted).name:
                raise ConfigurationError(f"{manifest} tells of {image.disk}, not of {wanted}")
            return image
        # Building imports much that a run with a ready image does not need.
        from pytest_xhyve.images.build import build_image  # noqa: PLC0415

        return build_image(wanted, self._home, self._report)


def settle(wanted: str, base: Path) -> str:
    """*wanted* for the whole run, whatever folder a test changes to: a path is made absolute, from *base*.

    Raises:
        ConfigurationError: no file and no name; the message has the nearest names.
    """
    if find_manifest(wanted, base) is None:
        return wanted
    return str(base / Path(wanted).expanduser())


def find_manifest(wanted: str | os.PathLike[str], base: Path = Path()) -> Path | None:
    """The manifest that *wanted* leads to, from the folder *base*, or None when it is a name of the catalog.

    Raises:
        ConfigurationError: it is neither.
    """
    text = os.fspath(wanted)
    if text in recipe_names():
        return None
    path = base / Path(text).expanduser()
    if path.suffix in _MANIFEST_SUFFIXES:
        if not path.is_file():
            raise ConfigurationError(f"there is no manifest {path}")
        return path
    if not path.is_file():
        known = recipe_names()
        raise ConfigurationError(
            f"there is no image {text!r}{nearest(text, known)}\n"
            f"  names: {', '.join(known)} (recipes in {RECIPES}); or give the path of a disk or a manifest"
        )
    beside = [path.with_suffix(suffix) for suffix in _MANIFEST_SUFFIXES]
    for manifest in beside:
        if manifest.is_file():
            return manifest
    raise ConfigurationError(f"{path} has no manifest beside it: {beside[0]} would tell its kernel and how to log in")
