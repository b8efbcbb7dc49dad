"""The catalog: make an image of what a test names, or read what is stated of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.distributions import Address
from pytest_xhyve.images.manifest import Manifest, parse_manifest
from pytest_xhyve.images.own_login import OwnLogin, explain_missing_password
from pytest_xhyve.images.own_recipe import OwnRecipe, read_own_recipe
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.pulled import find_pulled
from pytest_xhyve.images.sources import MANIFEST_SUFFIXES, Source, find_source, resolve_path
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image


class Catalog:
    """The images of this user.

    Args:
        home: the cache folder.
        report: called with a line for each step that takes long.
        prepare: makes an image of a disk whose manifest does not state all that a guest needs.
        build: builds the layer of a recipe of the project over an image.
        pull: returns the disk at an address; it is downloaded if it was not yet.
        login: how to log in to disks that are not of the catalog, if options state it.
        places: where names are looked up.
    """

    def __init__(
        self,
        home: Home,
        report: Callable[[str], None],
        prepare: Callable[[Manifest], Image],
        build: Callable[[OwnRecipe, Image], Image],
        pull: Callable[[Address], Path],
        login: OwnLogin,
        places: Places,
    ) -> None:
        self._home = home
        self._report = report
        self._prepare = prepare
        self._build = build
        self._pull = pull
        self._login = login
        self._places = places
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

    def known(self, wanted: str | os.PathLike[str] | Image) -> Image | None:
        """The image that *wanted* names if `find` has found it before; None otherwise, and nothing is built."""
        return wanted if isinstance(wanted, Image) else self._found.get(os.fspath(wanted))

    def forget(self, name: str) -> None:
        """Look *name* up again at the next `find`: a guest was saved by it."""
        self._found.pop(name, None)

    def build(self, recipe: OwnRecipe, folder: Path) -> Image:
        """The image of a *recipe* that a test states; a path in its ``extends`` is relative to *folder*.

        Raises:
            XhyveError: as `find`.
        """
        return self._build(recipe, self.find(resolve_path(recipe.extends, folder, self._places)))

    def _find(self, wanted: str) -> Image:
        source = find_source(wanted, places=self._places)
        if source.own is not None:
            recipes, base = read_recipes(source.own, self._places)
            image = self.find(base)
            for recipe in reversed(recipes):
                image = self._build(recipe, image)
            return image
        if source.address is not None:
            self._pull(source.address)
        manifest = read_stated(wanted, self._login, self._places)
        if manifest is not None:
            if manifest.needs_password:
                raise ConfigurationError(explain_missing_password(manifest))
            return self._prepare(manifest) if manifest.needs_preparation else manifest.image()
        # A run with a built image does not need this module, which imports much.
        from pytest_xhyve.images.build import build_image  # noqa: PLC0415

        return build_image(source.recipe or wanted, self._home, self._report)


def read_stated(wanted: str, login: OwnLogin, places: Places) -> Manifest | None:
    """What is stated of the disk that *wanted* names, with the options' *login*.

    It is None for an image of the catalog, a recipe of the project, and a disk that was not pulled yet.

    Args:
        wanted: a name, or the path of a manifest or of a disk.
        login: how to log in to disks that are not of the catalog.
        places: where names are looked up.

    Raises:
        ConfigurationError: nothing is found; the manifest is invalid; the key or the seed of the login cannot be used.
    """
    source = find_source(wanted, places=places)
    manifest = read_source(wanted, source, places)
    # The login of a saved guest is that of its image. The host that sent an image has applied the options.
    has_login = source.saved is not None or source.brought
    if manifest is None or (has_login and not manifest.needs_preparation):
        return manifest
    return login.applied_to(manifest)


def read_recipes(folder: Path, places: Places) -> tuple[list[OwnRecipe], str]:
    """The recipe of the project in *folder*, the one that it extends, and so on; and the image below all of them.

    Raises:
        ConfigurationError: one of them is invalid or not found, or they extend each other in a circle.
    """
    recipes: list[OwnRecipe] = []
    while True:
        recipe = read_own_recipe(folder)
        recipes.append(recipe)
        try:
            base = resolve_path(recipe.extends, folder, places)
            source = find_source(base, places=places)
        except ConfigurationError as error:
            raise ConfigurationError(f"{recipe.where}: extends: {error}") from error
        if source.own is None:
            return recipes, base
        folder = source.own
        if any(folder.resolve() == (each.folder or Path()).resolve() for each in recipes):
            circle = " extends ".join([*(each.name for each in recipes), folder.name])
            raise ConfigurationError(f"{recipe.where}: extends: the recipes extend each other in a circle: {circle}")


def read_source(wanted: str, source: Source, places: Places = Places()) -> Manifest | None:  # noqa: B008
    """What is stated of the disk that `find_source` found for *wanted*; None as in `read_stated`.

    Raises:
        ConfigurationError: the manifest is invalid, or names another disk than *wanted*.
    """
    if source.disk is not None:
        return Manifest.of_disk(source.disk)
    if source.address is not None:
        pulled = None if places.cache is None else find_pulled(source.address, places.cache)
        return None if pulled is None else Manifest.of_disk(pulled.disk).with_values(name=source.address.name)
    if source.manifest is None:
        return None
    manifest = parse_manifest(source.manifest)
    if source.brought:
        return manifest
    if source.saved is not None:
        return manifest.with_values(name=source.saved)
    if Path(wanted).suffix not in MANIFEST_SUFFIXES and manifest.disk.name != Path(wanted).name:
        raise ConfigurationError(
            f"{source.manifest}: disk: the manifest names {manifest.disk}, not {wanted}, which is beside it"
        )
    return manifest
