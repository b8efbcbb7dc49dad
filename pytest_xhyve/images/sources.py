"""Find what a name or a path stands for: a recipe, a manifest, a disk, an address."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.images.distributions import (
    Address,
    find_distribution,
    is_address,
    parse_address,
    read_distributions,
)
from pytest_xhyve.images.layers import saved_manifest, saved_names
from pytest_xhyve.images.own_recipe import RECIPE
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.recipe import RECIPES, find_catalog_name, recipe_names
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import parse_path, suggest

MANIFEST_SUFFIXES = (".yaml", ".yml")
"""The endings of a manifest's name."""

_COMPRESSED_SUFFIXES = (".xz", ".zst", ".gz")
_SHOWN_NAMES = 5
_IMAGE_SUFFIXES = (*MANIFEST_SUFFIXES, ".img", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhdx", *_COMPRESSED_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Source:
    """What an image is made from; exactly one of the first five is set.

    Attributes:
        recipe: a name of the catalog.
        manifest: the path of a manifest.
        disk: the path of a disk without a manifest beside it.
        own: the folder of a recipe of the project.
        address: where the disk can be downloaded.
        saved: the name of a saved guest or of an installed system, whose manifest is set, too.
        by_name: whether a recipe of the project was looked up by name.
        brought: whether another host has sent the image, whose manifest is set, for this run.
    """

    recipe: str | None = None
    manifest: Path | None = None
    disk: Path | None = None
    own: Path | None = None
    address: Address | None = None
    saved: str | None = None
    by_name: bool = False
    brought: bool = False

    @property
    def has_name(self) -> bool:
        """Whether the image was looked up by name, and not by a path."""
        named = self.recipe is not None or self.address is not None or self.saved is not None
        return named or self.by_name or self.brought


def resolve_path(wanted: str, base: Path, places: Places) -> str:
    """*wanted* in a form that stays valid if a test changes its folder: a path becomes absolute, from *base*.

    Args:
        wanted: a name or a path.
        base: the folder that a path is relative to.
        places: where names are looked up.

    Raises:
        ConfigurationError: *wanted* is not a file and not a name; the message suggests names.
    """
    if find_source(wanted, base, places).has_name:
        return wanted
    return str(base / parse_path(wanted))


def find_source(wanted: str | os.PathLike[str], base: Path = Path(), places: Places = Places()) -> Source:  # noqa: B008
    """The recipe, the manifest or the disk that *wanted* names; a path is relative to the folder *base*.

    Args:
        wanted: a name or a path.
        base: the folder that a path is relative to.
        places: where names are looked up, beside the catalog.

    Raises:
        ConfigurationError: *wanted* is not a file and not a name.
    """
    text = os.fspath(wanted)
    found = _find_named(text, places) or _find_saved(text, places)
    if found is None and is_address(text):
        found = Source(address=parse_address(text))
    if found is not None:
        return found
    path = base / parse_path(text)
    # The list of distributions is read only if nothing else has the name.
    found = _find_file(path) or _find_distribution(text, places)
    if found is None:
        raise _not_found(text, path, places)
    return found


def _find_named(name: str, places: Places) -> Source | None:
    """The image that another host has sent, or the recipe, with this *name*; None if there is none.

    Raises:
        ConfigurationError: two recipes have the name, or a folder of recipes does not exist.
    """
    brought = dict(places.brought).get(name)
    if brought is not None:
        return Source(manifest=brought, brought=True)
    own = places.find_recipe(name)
    if own is not None:
        return Source(own=own, by_name=True)
    recipe = find_catalog_name(name)
    return None if recipe is None else Source(recipe=recipe)


def _find_saved(name: str, places: Places) -> Source | None:
    """The saved guest or the installed system *name*; None if there is none.

    Raises:
        ConfigurationError: it was saved, and its layer is gone.
    """
    saved = None if places.cache is None else saved_manifest(name, places.cache)
    if saved is not None and not saved.exists():
        raise ConfigurationError(
            f"the layer of the saved image {name} is gone: {saved.parent} does not exist\n  save the guest again"
        )
    return None if saved is None else Source(manifest=saved, saved=name)


def _find_file(path: Path) -> Source | None:
    """The recipe, the manifest or the disk at *path*; None if there is no file that may be a disk.

    Raises:
        ConfigurationError: it is the path of a manifest that does not exist, or of a disk with two.
    """
    if path.name == RECIPE and _is_file(path):
        return Source(own=path.parent)
    if _is_file(path / RECIPE):
        return Source(own=path)
    if path.suffix in MANIFEST_SUFFIXES:
        if not _is_file(path):
            raise ConfigurationError(f"manifest {path} {_what_is_there(path) or f'not found{_near_files(path)}'}")
        return Source(manifest=path)
    if not _is_file(path):
        return None
    beside = _manifest_beside(path)
    return Source(disk=path) if beside is None else Source(manifest=beside)


def _manifest_beside(disk: Path) -> Path | None:
    # The manifest of disk.img.xz is disk.yaml, as is that of disk.img.
    plain = disk.with_suffix("") if disk.suffix in _COMPRESSED_SUFFIXES else disk
    beside = [plain.with_suffix(suffix) for suffix in MANIFEST_SUFFIXES]
    found = [manifest for manifest in beside if _is_file(manifest)]
    if len(found) > 1:
        raise ConfigurationError(
            f"{disk} has two manifests beside it, {found[0].name} and {found[1].name}: remove one, or give the path "
            "of a manifest"
        )
    return found[0] if found else None


def _find_distribution(name: str, places: Places) -> Source | None:
    address = find_distribution(name, read_distributions(places.distributions))
    return None if address is None else Source(address=address)


def _not_found(text: str, path: Path, places: Places) -> ConfigurationError:
    catalog = (*recipe_names(), *places.recipe_names())
    saved = () if places.cache is None else saved_names(places.cache)
    distributions = tuple(read_distributions(places.distributions))
    near = suggest(text, (*catalog, *saved)) or _near_files(path) or suggest(text, distributions)
    # An empty name would be the folder that paths are relative to.
    trouble = (_what_is_there(path) if text else None) or f"not found{near}"
    names = {
        f"names of recipes (in {RECIPES})": catalog,
        "names of saved guests": saved,
        "names of distributions": distributions,
    }
    listed = "".join(f"\n  {kind}: {', '.join(each)}" for kind, each in names.items() if each)
    return ConfigurationError(
        f"image {text!r} {trouble}{listed}\n"
        "  or give the path of a disk, a manifest or a recipe, or the address of a disk "
        "(https://HOST/FILE#sha256=DIGEST)"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        # For example, this user may not read the folder, or the name is too long.
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot look for the image {str(path)!r}: {reason}") from error


def _what_is_there(path: Path) -> str | None:
    """What *path* is that is not a file, as the end of a sentence; None if nothing is there."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if not path.is_symlink():
            return None
        return (
            "is a link that leads to itself"
            if error.errno == errno.ELOOP
            else f"is a link to {path.readlink()}, which does not exist"
        )
    except ValueError:
        # The path cannot be encoded.
        return None
    if stat.S_ISDIR(mode):
        with suppress(OSError):
            if names := _names_of_images(path)[:_SHOWN_NAMES]:
                return f"is a folder without {RECIPE}; give the path of an image in it: {', '.join(names)}"
        return f"is a folder without {RECIPE}"
    if stat.S_ISBLK(mode):
        copy = shlex.join(["qemu-img", "convert", "-O", "qcow2", str(path), "disk.qcow2"])
        return f"is a block device; copy it into a file first: `{copy}`"
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a character device"}
    return f"is {kinds.get(stat.S_IFMT(mode), 'a special file')}, which cannot be a disk"


def _names_of_images(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(found.name for found in folder.iterdir() if found.suffix in _IMAGE_SUFFIXES))


def _near_files(path: Path) -> str:
    """The end of a message: the folder that is missing, or similar names of images in it."""
    folder = path.parent
    try:
        beside = _names_of_images(folder)
    except (OSError, ValueError):
        # ValueError: the path cannot be encoded.
        return f"; folder {folder} does not exist" if not os.path.lexists(folder) else ""
    return suggest(path.name, beside)
