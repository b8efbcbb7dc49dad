"""The catalog: images by name, and by the path of a disk or a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.recipe import RECIPES, recipe_names
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import parse_path, suggest

_MANIFEST_SUFFIXES = (".yaml", ".yml")
_IMAGE_SUFFIXES = (*_MANIFEST_SUFFIXES, ".img", ".raw", ".qcow2")


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
            return read_image(wanted, manifest)
        # Building imports much that a run with a ready image does not need.
        from pytest_xhyve.images.build import build_image  # noqa: PLC0415

        return build_image(wanted, self._home, self._report)


def read_image(wanted: str, manifest: Path) -> Image:
    """The image of the *manifest* that `find_manifest` found for *wanted*.

    Raises:
        ConfigurationError: it is wrong, or tells of another disk than *wanted*.
    """
    image = read_manifest(manifest)
    if Path(wanted).suffix not in _MANIFEST_SUFFIXES and image.disk.name != Path(wanted).name:
        raise ConfigurationError(f"{manifest}: disk: it tells of {image.disk}, and not of {wanted}, which it is beside")
    return image


def resolve_path(wanted: str, base: Path) -> str:
    """*wanted* for the whole run, whatever folder a test changes to: a path is made absolute, from *base*.

    Raises:
        ConfigurationError: no file and no name; the message has the suggest names.
    """
    if find_manifest(wanted, base) is None:
        return wanted
    return str(base / parse_path(wanted))


def find_manifest(wanted: str | os.PathLike[str], base: Path = Path()) -> Path | None:
    """The manifest that *wanted* leads to, from the folder *base*, or None when it is a name of the catalog.

    Raises:
        ConfigurationError: it is neither.
    """
    text = os.fspath(wanted)
    if text in recipe_names():
        return None
    path = base / parse_path(text)
    if path.suffix in _MANIFEST_SUFFIXES:
        if not _is_file(path):
            raise ConfigurationError(f"there is no manifest {path}{_near_files(path)}")
        return path
    if not _is_file(path):
        known = recipe_names()
        raise ConfigurationError(
            f"there is no image {text!r}{suggest(text, known) or _near_files(path)}\n"
            f"  names: {', '.join(known)} (recipes in {RECIPES}); or give the path of a disk or a manifest"
        )
    beside = [path.with_suffix(suffix) for suffix in _MANIFEST_SUFFIXES]
    found = [manifest for manifest in beside if _is_file(manifest)]
    if len(found) > 1:
        raise ConfigurationError(
            f"{path} has two manifests beside it, {found[0].name} and {found[1].name}: remove one, or give the path "
            "of the one that is meant"
        )
    if not found:
        raise ConfigurationError(
            f"{path} has no manifest beside it: {beside[0]} would tell its kernel and how to log in"
        )
    return found[0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        # A folder that may not be looked into, or a name that no file can have.
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot look for the image {str(path)!r}: {reason}") from error


def _near_files(path: Path) -> str:
    """A hint at the folder that is not there, or at images in it that may have been meant."""
    folder = path.parent
    try:
        beside = tuple(sorted(found.name for found in folder.iterdir() if found.suffix in _IMAGE_SUFFIXES))
    except OSError:
        return f"; there is no folder {folder}" if not os.path.lexists(folder) else ""
    return suggest(path.name, beside)
