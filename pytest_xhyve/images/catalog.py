"""The catalog: find images by name, or by the path of a disk or a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import Manifest, parse_manifest
from pytest_xhyve.images.own_login import OwnLogin, explain_missing_password
from pytest_xhyve.images.recipe import RECIPES, recipe_names
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import parse_path, suggest

_MANIFEST_SUFFIXES = (".yaml", ".yml")
_COMPRESSED_SUFFIXES = (".xz", ".zst", ".gz")
_IMAGE_SUFFIXES = (*_MANIFEST_SUFFIXES, ".img", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhdx", *_COMPRESSED_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Source:
    """What an image is made from; exactly one of the three is set.

    Attributes:
        recipe: a name of the catalog.
        manifest: the path of a manifest.
        disk: the path of a disk without a manifest beside it.
    """

    recipe: str | None = None
    manifest: Path | None = None
    disk: Path | None = None


class Catalog:
    """The images of this user.

    Args:
        home: the cache folder.
        report: called with a line for each step that takes long.
        prepare: makes an image of a disk whose manifest does not state all that a guest needs.
        login: how to log in to disks that are not of the catalog, if options state it.
    """

    def __init__(
        self,
        home: Home,
        report: Callable[[str], None],
        prepare: Callable[[Manifest], Image],
        login: OwnLogin = OwnLogin(),  # noqa: B008  # it is frozen
    ) -> None:
        self._home = home
        self._report = report
        self._prepare = prepare
        self._login = login
        self._found: dict[str, Image] = {}

    def find(self, wanted: str | os.PathLike[str] | Image) -> Image:
        """The image that *wanted* names; it is built or prepared first if need be. Each name is looked up once.

        Args:
            wanted: an image, a name from the catalog, or the path of a manifest or of a disk.

        Raises:
            ConfigurationError: the image is not found, or its manifest is invalid.
            ImageError: the image cannot be built, or the disk cannot be prepared.
        """
        if isinstance(wanted, Image):
            return wanted
        text = os.fspath(wanted)
        if text not in self._found:
            self._found[text] = self._find(text)
        return self._found[text]

    def _find(self, wanted: str) -> Image:
        manifest = read_stated(wanted, self._login)
        if manifest is not None:
            if manifest.needs_password:
                raise ConfigurationError(explain_missing_password(manifest))
            return self._prepare(manifest) if manifest.needs_preparation else manifest.image()
        # A run with a built image does not need this module, which imports much.
        from pytest_xhyve.images.build import build_image  # noqa: PLC0415

        return build_image(wanted, self._home, self._report)


def read_stated(wanted: str, login: OwnLogin) -> Manifest | None:
    """What is stated of the disk that *wanted* names, with the options' *login*; None for an image of the catalog.

    Raises:
        ConfigurationError: nothing is found; the manifest is invalid; the key or the seed of the login cannot be used.
    """
    manifest = read_source(wanted, find_source(wanted))
    return None if manifest is None else login.applied_to(manifest)


def read_source(wanted: str, source: Source) -> Manifest | None:
    """What is stated of the disk that `find_source` found for *wanted*; None for an image of the catalog.

    Raises:
        ConfigurationError: the manifest is invalid, or names another disk than *wanted*.
    """
    if source.disk is not None:
        return Manifest.of_disk(source.disk)
    if source.manifest is None:
        return None
    manifest = parse_manifest(source.manifest)
    if Path(wanted).suffix not in _MANIFEST_SUFFIXES and manifest.disk.name != Path(wanted).name:
        raise ConfigurationError(
            f"{source.manifest}: disk: the manifest names {manifest.disk}, not {wanted}, which is beside it"
        )
    return manifest


def resolve_path(wanted: str, base: Path) -> str:
    """*wanted* in a form that stays valid if a test changes its folder: a path becomes absolute, from *base*.

    Raises:
        ConfigurationError: *wanted* is not a file and not a name; the message suggests names.
    """
    if find_source(wanted, base).recipe is not None:
        return wanted
    return str(base / parse_path(wanted))


def find_source(wanted: str | os.PathLike[str], base: Path = Path()) -> Source:
    """The recipe, the manifest or the disk that *wanted* names; a path is relative to the folder *base*.

    Raises:
        ConfigurationError: *wanted* is not a file and not a name.
    """
    text = os.fspath(wanted)
    if text in recipe_names():
        return Source(recipe=text)
    path = base / parse_path(text)
    if path.suffix in _MANIFEST_SUFFIXES:
        if not _is_file(path):
            raise ConfigurationError(f"manifest {path} not found{_near_files(path)}")
        return Source(manifest=path)
    if not _is_file(path):
        known = recipe_names()
        raise ConfigurationError(
            f"image {text!r} not found{suggest(text, known) or _near_files(path)}\n"
            f"  names: {', '.join(known)} (recipes in {RECIPES}); or give the path of a disk or a manifest"
        )
    # The manifest of disk.img.xz is disk.yaml, as is that of disk.img.
    plain = path.with_suffix("") if path.suffix in _COMPRESSED_SUFFIXES else path
    beside = [plain.with_suffix(suffix) for suffix in _MANIFEST_SUFFIXES]
    found = [manifest for manifest in beside if _is_file(manifest)]
    if len(found) > 1:
        raise ConfigurationError(
            f"{path} has two manifests beside it, {found[0].name} and {found[1].name}: remove one, or give the path "
            "of a manifest"
        )
    return Source(manifest=found[0]) if found else Source(disk=path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        # For example, this user may not read the folder, or the name is too long.
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot look for the image {str(path)!r}: {reason}") from error


def _near_files(path: Path) -> str:
    """The end of a message: the folder that is missing, or similar names of images in it."""
    folder = path.parent
    try:
        beside = tuple(sorted(found.name for found in folder.iterdir() if found.suffix in _IMAGE_SUFFIXES))
    except (OSError, ValueError):
        # ValueError: the path contains a NUL.
        return f"; folder {folder} does not exist" if not os.path.lexists(folder) else ""
    return suggest(path.name, beside)
