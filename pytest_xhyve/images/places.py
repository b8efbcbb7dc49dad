"""Where images are looked up by name, beside the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.own_recipe import RECIPE
from pytest_xhyve.images.recipe import RECIPES, find_catalog_name
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.settings import Settings


@dataclass(frozen=True, slots=True)
class Places:
    """Where images are looked up by name, beside the catalog.

    Attributes:
        cache: the cache folder, which has saved guests; None to look up none.
        recipes: the folders of the project's recipes; each recipe has a folder of its own in one of them.
        distributions: the project's list of addresses, or None.
        brought: the manifests of images that another host has sent for this run, by what they are asked for by. They
            come before all others.
    """

    cache: Path | None = None
    recipes: tuple[Path, ...] = ()
    distributions: Path | None = None
    brought: tuple[tuple[str, Path], ...] = ()

    @classmethod
    def of(cls, home: Home, settings: Settings) -> Self:
        """The places of this user and of these settings."""
        return cls(home.path, settings.recipes, settings.distributions, settings.brought)

    def recipe_names(self) -> tuple[str, ...]:
        """The names of the project's recipes."""
        return tuple(sorted({path.parent.name for folder in self.recipes for path in folder.glob(f"*/{RECIPE}")}))

    def find_recipe(self, name: str) -> Path | None:
        """The folder of the project's recipe *name*, or None.

        Raises:
            ConfigurationError: two recipes have the name, or a folder of recipes does not exist.
        """
        if not self.recipes or name in ("", ".", "..") or "/" in name or "\0" in name:
            return None
        for folder in self.recipes:
            if not folder.is_dir():
                raise ConfigurationError(f"--xhyve-recipes: {folder} is not a folder")
        found = [folder / name for folder in self.recipes if (folder / name / RECIPE).is_file()]
        if find_catalog_name(name) is not None:
            found.insert(0, RECIPES / name)
        if len({path.resolve() for path in found}) > 1:
            raise ConfigurationError(
                f"two recipes are named {name}: {found[0]} and {found[-1]}\n  rename one of the two"
            )
        return found[-1] if found and found[-1].parent != RECIPES else None
