"""What an image states of itself, as far as this is known before it is built or prepared."""

from __future__ import annotations

import os

from pytest_xhyve.images.catalog import read_recipes, read_stated
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.recipe import find_catalog_name, read_recipe
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.restriction import ImageFacts


def facts_of(image: Image) -> ImageFacts:
    """What *image* states, or else the recipe of the catalog by which it was built."""
    recipe = image.made.get("recipe")
    built = _facts_of_recipe(recipe) if recipe is not None and find_catalog_name(recipe) else ImageFacts(image.name)
    return ImageFacts(
        image.name, image.distro or built.distro, image.version or built.version, image.init or built.init, image.arch
    )


def find_facts(wanted: str | os.PathLike[str] | Image, places: Places, login: OwnLogin) -> ImageFacts:
    """What is stated of the image that *wanted* names; nothing is built, prepared or downloaded for it.

    Args:
        wanted: an image, a name, or the path of a manifest, of a disk or of a recipe.
        places: where names are looked up.
        login: how to log in to disks that are not of the catalog.

    Raises:
        ConfigurationError: the image is not found, or its manifest or recipe is invalid.
    """
    if isinstance(wanted, Image):
        return facts_of(wanted)
    source = find_source(wanted, places=places)
    if source.recipe is not None:
        return _facts_of_recipe(source.recipe)
    if source.own is not None:
        recipes, base = read_recipes(source.own, places)
        below = find_facts(base, places, login)
        return ImageFacts(recipes[0].name, below.distro, below.version, below.init, below.arch)
    manifest = read_stated(os.fspath(wanted), login, places)
    if manifest is None:
        return ImageFacts(source.address.name if source.address is not None else os.fspath(wanted))
    if not manifest.needs_preparation:
        return facts_of(manifest.image())
    stated = {key: manifest.values.get(key) for key in ("distro", "version", "init", "arch")}
    return ImageFacts(manifest.name, **stated)


def _facts_of_recipe(name: str) -> ImageFacts:
    recipe = read_recipe(name)
    return ImageFacts(name, recipe.distro, recipe.version, recipe.init_system, recipe.architecture.name)
