"""Recipes of a user's project: a folder with ``recipe.yaml``, and with the files that go into the image."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_xhyve.images.layers import check_name
from pytest_xhyve.images.yaml_file import load_mapping
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.values import (
    parse_disk_size,
    parse_keys,
    parse_memory,
    parse_positive_float,
    parse_positive_int,
    short_repr,
)

RECIPE = "recipe.yaml"
"""The file that makes a folder a recipe."""

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:=~@/-]*")
_STEP_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class OwnRecipe:
    """How a layer is built in a guest of the image below it: the keys of ``recipe.yaml``.

    Attributes:
        name: the image's name: that of the folder.
        folder: the folder; absolute, or None for a recipe that a test states.
        extends: what the layer goes over: a name, a path or an address.
        packages: packages for the package manager of the system.
        files: paths in the guest, and what is copied there: files and folders of the recipe's folder.
        run: lines for the guest's shell, which root runs in this order.
        size: the size of the disk in bytes, into which the root file system grows; None for that of the image below.
        cpus: virtual CPUs of a guest; None for those of the image below.
        memory: bytes of memory of a guest, with the same meaning of None.
        timeout: the limit of each step, in seconds.
    """

    name: str
    folder: Path | None
    extends: str
    packages: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    run: tuple[str, ...] = ()
    size: int | None = None
    cpus: int | None = None
    memory: int | None = None
    timeout: float = _STEP_SECONDS

    @property
    def where(self) -> str:
        """Where the recipe is written, for messages."""
        return self.name if self.folder is None else str(self.folder / RECIPE)

    def content(self) -> dict[str, Any]:
        """All that the layer's content depends on beside the image below, as plain data.

        Raises:
            ConfigurationError: a file is missing, cannot be read, or leads out of the folder.
        """
        return {
            "packages": list(self.packages),
            "files": {remote: list(_describe(local, self)) for remote, local in self.files.items()},
            "run": list(self.run),
            "size": self.size,
        }


def read_own_recipe(folder: Path) -> OwnRecipe:
    """The recipe in *folder*; its files are checked.

    Raises:
        ConfigurationError: the recipe is missing or invalid, or a file is missing or leads out of the folder; the
            message names the file and the key.
    """
    folder = folder.absolute()
    path = folder / RECIPE
    content = load_mapping(path, "recipe", "extends: debian12")
    recipe = parse_own_recipe(content, folder.name, folder)
    recipe.content()
    return recipe


def parse_own_recipe(content: Mapping[Any, Any], name: str, folder: Path | None) -> OwnRecipe:
    """The recipe with the keys of *content*.

    Args:
        content: the keys as users write them.
        name: the name of the image.
        folder: the folder of the recipe; None if a test states it, whose files may be anywhere.

    Raises:
        ConfigurationError: a key is unknown or missing, or a value is invalid.
    """
    where = name if folder is None else str(folder / RECIPE)
    parsers = {
        "extends": _text,
        "packages": _packages,
        "files": lambda value: _files(value, folder),
        "run": _lines,
        "size": parse_disk_size,
        "cpus": parse_positive_int,
        "memory": parse_memory,
        "timeout": parse_positive_float,
    }
    values = parse_keys(content, parsers, where)
    if "extends" not in values:
        raise ConfigurationError(
            f"{where}: missing extends\n  name the image that the recipe adds to: extends: debian12"
        )
    try:
        check_name(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: the folder's name is that of the image: {error}") from error
    return OwnRecipe(name, folder, **values)


def _describe(local: Path, recipe: OwnRecipe) -> Iterator[list[Any]]:
    """Each file of *local*, with all of it that is copied."""
    files = [local, *sorted(local.rglob("*"))] if local.is_dir() else [local]
    for path in files:
        name = os.path.relpath(path, local)
        try:
            _check_inside(path, recipe)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                yield [name, "link", str(path.readlink())]
            elif stat.S_ISDIR(status.st_mode):
                yield [name, "folder", stat.S_IMODE(status.st_mode)]
            elif stat.S_ISREG(status.st_mode):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                yield [name, "file", stat.S_IMODE(status.st_mode), digest]
            else:
                raise ConfigurationError(f"{recipe.where}: files: {path} is neither a file nor a folder nor a link")
        except OSError as error:
            raise ConfigurationError(f"{recipe.where}: files: cannot read {path}: {error.strerror}") from error


def _check_inside(path: Path, recipe: OwnRecipe) -> None:
    if recipe.folder is not None and not path.resolve().is_relative_to(recipe.folder.resolve()):
        raise ConfigurationError(
            f"{recipe.where}: files: {path} leads out of the recipe's folder, to {path.resolve()}\n"
            "  copy the file into the folder: what the image is made of is only what is in there"
        )


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip() or re.search(r"[\x00-\x1f\x7f]", str(value)):
        raise ConfigurationError(f"expected text on one line, not {short_repr(value)}")
    return str(value).strip()


def _packages(value: Any) -> tuple[str, ...]:
    names = _list(value)
    for name in names:
        if not isinstance(name, str) or not _PACKAGE.fullmatch(name):
            raise ConfigurationError(f"{short_repr(name)} is not the name of a package")
    return tuple(names)


def _lines(value: Any) -> tuple[str, ...]:
    lines = _list(value)
    for line in lines:
        if not isinstance(line, str) or not line.strip() or "\0" in line:
            hint = "; put it in quotes" if not isinstance(line, str) else ""
            raise ConfigurationError(f"{short_repr(line)} is not a line for the guest's shell{hint}")
    return tuple(lines)


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"expected a list, not {short_repr(value)}")
    return value


def _files(value: Any, folder: Path | None) -> dict[str, Path]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"expected a mapping of paths in the guest to files here, not {short_repr(value)}")
    found = {}
    for remote, local in value.items():
        if not isinstance(remote, str) or not remote.startswith("/") or "\0" in remote:
            raise ConfigurationError(f"{short_repr(remote)} is not an absolute path in the guest; it begins with /")
        found[remote] = (folder or Path()) / _text(local)
    return dict(sorted(found.items()))
