"""Recipes: how the images of the catalog are made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_INSTALLED = Path(__file__).parent / "recipes"
_CHECKED_OUT = Path(__file__).parents[2] / "images"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
"""The folder of recipes: inside the package when it is installed, beside it in a checkout."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made: the keys of ``recipe.yaml``, and the folder that it stands in.

    Attributes:
        name: the image's.
        folder: holds ``recipe.yaml``, ``customize`` and ``files/``.
        summary: one line for people.
        arch: the CPU's architecture.
        suite: Debian's release.
        variant: mmdebstrap's ``--variant``.
        packages: Debian's packages.
        disk: the disk's size, as ``4G``.
        boot_modules: kernel modules that the initial RAM disk loads, in this order.
        cmdline: the kernel's command line.
        user: who logs in.
        cpus: virtual CPUs.
        memory: as ``512M``.
        cpu: the x86-64 level of the userland.
    """

    name: str
    folder: Path
    summary: str
    arch: str
    suite: str
    variant: str
    packages: tuple[str, ...]
    disk: str
    boot_modules: tuple[str, ...]
    cmdline: str
    user: str
    cpus: int
    memory: str
    cpu: str

    @property
    def customize(self) -> Path:
        """The hook that mmdebstrap runs with the root file system as its argument."""
        return self.folder / "customize"

    @property
    def files(self) -> Path:
        """The tree that is laid over the root file system."""
        return self.folder / "files"

    @property
    def init(self) -> Path:
        """The first program of the initial RAM disk, shared by all recipes."""
        return self.folder.parent / "initrd" / "init"

    def digest(self) -> str:
        """What changes when anything does that the image is made from."""
        sha256 = hashlib.sha256()
        for path in sorted([self.init, *self.folder.rglob("*")]):
            if path.is_file():
                sha256.update(f"{path.relative_to(self.folder.parent)}\0{path.stat().st_size}\0".encode())
                sha256.update(path.read_bytes())
        return sha256.hexdigest()


def recipe_names() -> tuple[str, ...]:
    """The names that can be built, sorted."""
    return tuple(sorted(path.parent.name for path in RECIPES.glob("*/recipe.yaml")))


def read_recipe(name: str) -> Recipe:
    """The recipe *name*, one of `recipe_names`."""
    import yaml  # noqa: PLC0415

    folder = RECIPES / name
    content: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text())
    content["packages"] = tuple(content["packages"])
    content["boot_modules"] = tuple(content["boot_modules"])
    return Recipe(name=name, folder=folder, **content)
