"""Recipes: how the images of the catalog are built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.model.architecture import Architecture, find_architecture, host_architecture
from pytest_xhyve.model.errors import ConfigurationError

_INSTALLED = Path(__file__).parent / "recipes"
_CHECKED_OUT = Path(__file__).parents[2] / "images"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
"""The folder of recipes: inside the installed package, or beside the package in a checkout."""

# https://www.debian.org/releases/
_VERSIONS = {"bullseye": "11", "bookworm": "12", "trixie": "13"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is built: the keys of ``recipe.yaml``, and its folders.

    Attributes:
        name: the image's name.
        folders: the folders with ``recipe.yaml``, ``customize`` and ``files/``: the recipe's own first, then the folder
            of the recipe that it extends, and so on.
        summary: one line for people.
        architecture: the guests'.
        suite: Debian's release.
        variant: mmdebstrap's ``--variant``.
        packages: Debian's packages; ``{debian}`` in a text stands for Debian's word for the architecture.
        disk: the disk's size, for example ``4G``.
        partitioned: whether the root file system is in the disk's first partition, not on the whole disk.
        boot_modules: kernel modules that the initial RAM disk loads, in this order.
        cmdline: the kernel's command line; ``{console}`` and ``{parameters}`` in it stand for the architecture's.
        user: the user that the plugin logs in as.
        cpus: virtual CPUs.
        memory: for example ``512M``.
    """

    name: str
    folders: tuple[Path, ...]
    summary: str
    architecture: Architecture
    suite: str
    variant: str
    packages: tuple[str, ...]
    disk: str
    boot_modules: tuple[str, ...]
    cmdline: str
    user: str
    cpus: int
    memory: str
    partitioned: bool = False

    @property
    def distro(self) -> str:
        """The distribution, as os-release(5) names it: mmdebstrap builds Debian."""
        return "debian"

    @property
    def version(self) -> str | None:
        """The version of the distribution; None for a release that has no number yet."""
        return _VERSIONS.get(self.suite)

    @property
    def init_system(self) -> str:
        """The first program of a guest."""
        return "systemd" if "systemd-sysv" in self.packages else "busybox"

    @property
    def customize(self) -> Path:
        """The hook that mmdebstrap runs with the root file system as its argument."""
        scripts = [folder / "customize" for folder in self.folders]
        return next((script for script in scripts if script.is_file()), scripts[-1])

    @property
    def files(self) -> dict[str, Path]:
        """The files to add to the root file system: paths inside it, and their sources."""
        trees = [folder / "files" for folder in reversed(self.folders)]
        found = {str(path.relative_to(tree)): path for tree in trees for path in tree.rglob("*")}
        return dict(sorted(found.items()))

    @property
    def init(self) -> Path:
        """The first program of the initial RAM disk, shared by all recipes."""
        return self.folders[0].parent / "initrd" / "init"

    def digest(self) -> str:
        """A digest of all files that the image is built from."""
        sha256 = hashlib.sha256()
        top = self.folders[0].parent
        for path in sorted([self.init, *(path for folder in self.folders for path in folder.rglob("*"))]):
            if path.is_file():
                sha256.update(f"{path.relative_to(top)}\0{path.stat().st_size}\0".encode())
                sha256.update(path.read_bytes())
        return sha256.hexdigest()


def recipe_names(recipes: Path = RECIPES) -> tuple[str, ...]:
    """The names of all recipes, sorted."""
    return tuple(sorted(path.parent.name for path in recipes.glob("*/recipe.yaml")))


def find_catalog_name(word: str) -> str | None:
    """The name of the catalog's image that *word* means, or None: the same image has one name.

    It is the recipe's name for guests of this host's architecture, and ``RECIPE-ARCHITECTURE`` for others.
    """
    found = _split(word, RECIPES)
    return None if found is None else _join(*found)


def name_here(name: str, arch: str) -> str:
    """The name on this host of an image of *arch* that is called *name* on a host of any processor.

    Only images of the catalog have different names.
    """
    found, architecture = _split(name, RECIPES), find_architecture(arch)
    return name if found is None or architecture is None else _join(found[0], architecture)


def read_recipe(name: str, recipes: Path = RECIPES) -> Recipe:
    """The recipe of the image *name*: one of `recipe_names`, or one with ``-`` and an architecture after it.

    A recipe with ``extends: OTHER`` inherits the keys, ``customize`` and ``files/`` of OTHER. Its own keys and
    files take precedence; ``add_packages`` adds to the packages of OTHER.
    """
    from pytest_xhyve.images.yaml_file import load_mapping  # noqa: PLC0415

    found = _split(name, recipes)
    if found is None:
        raise ConfigurationError(f"no recipe is named {name!r}")
    folder, architecture = found
    content: dict[str, Any] = {"extends": folder}
    folders: list[Path] = []
    added: list[str] = []
    while (base := content.pop("extends", None)) is not None:
        folders.append(recipes / base)
        content = load_mapping(folders[-1] / "recipe.yaml", "recipe", "summary: …") | content
        added += content.pop("add_packages", [])
    content["packages"] = tuple(
        package.format(debian=architecture.debian) for package in [*content["packages"], *added]
    )
    content["boot_modules"] = tuple(content["boot_modules"])
    content["cmdline"] = (
        content["cmdline"].format(console=architecture.console, parameters=" ".join(architecture.parameters)).strip()
    )
    return Recipe(name=_join(folder, architecture), folders=tuple(folders), architecture=architecture, **content)


def _split(word: str, recipes: Path) -> tuple[str, Architecture] | None:
    """The recipe and the architecture that *word* means."""
    names = recipe_names(recipes)
    if word in names:
        return word, host_architecture()
    recipe, _, suffix = word.rpartition("-")
    architecture = find_architecture(suffix)
    return (recipe, architecture) if recipe in names and architecture is not None else None


def _join(recipe: str, architecture: Architecture) -> str:
    return recipe if architecture == host_architecture() else f"{recipe}-{architecture.name}"
