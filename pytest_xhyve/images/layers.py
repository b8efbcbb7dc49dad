"""The layers in the cache folder: images that are the differences to another image.

Each has a folder of its own, named by its key: a digest of all that its content depends on. It is made in a folder of
another name and renamed in one step, so that a process that is killed leaves nothing that is taken for a layer. In a
layer, all paths inside the cache folder are relative: a cache folder may be moved or copied to another machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.host.digests import digest_of, known_digest, remember_digest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import LAYER_FILE, relative_to_cache
from pytest_xhyve.host.locks import locked
from pytest_xhyve.images.backing import backing_files, check_base, folders_of
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.manifest import as_manifest, read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.images.recipe import find_catalog_name
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.image import IMAGE_NAME, Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.values import short_repr

FOLDER = "layers"
"""The folder in the cache folder."""

MANIFEST = "manifest.yaml"
"""The manifest in the folder of a layer."""

SAVED = "saved"
"""The folder in the cache folder with a file for each name of a saved guest; it contains the layer's key."""

INSTALLED = "installed"
"""The folder in the cache folder with the systems that were installed; each has a folder of its own name."""

_DIGITS = 16
_KEY = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the cache folder.

    Attributes:
        key: the name of its folder.
        image: the image.
        names: the names that a saved guest was given; none for a layer of a recipe.
    """

    key: str
    image: Image
    names: tuple[str, ...]


class LayerStore:
    """The layers in the cache folder *home*."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def key(self, base: Image, content: Mapping[str, Any]) -> str:
        """The key of the layer that *content*, plain data, makes over *base*."""
        depends = [_describe(base, self._home.folder("checked")), dict(content)]
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:_DIGITS]

    def find(self, key: str) -> Image | None:
        """The layer *key*; None if it is not there, is not whole, or its base is not as it was."""
        image = read_if_complete(self._home.path / FOLDER / key / MANIFEST)
        if image is None:
            return None
        try:
            check_base(image, self._home.folder("checked"))
        except ImageError:
            return None
        return image

    @contextmanager
    def making(self, key: str, report: Callable[[str], None]) -> Iterator[Path]:
        """A new folder for the files of the layer *key*; no other process makes it until the end of the block.

        Args:
            key: the layer's key.
            report: called with a line if this has to wait for another process.
        """
        folder = self._home.folder(FOLDER)
        with (
            locked(folder / f"{key}.lock", "makes the same layer", report=report),
            new_workspace(folder, key) as workspace,
        ):
            yield workspace

    def publish(
        self, workspace: Path, key: str, base: Image, disk: Disk, values: Mapping[str, Any], made: Mapping[str, Any]
    ) -> Image:
        """Turn *workspace* into the layer *key*, in one step.

        Args:
            workspace: a folder from `making`.
            key: the layer's key.
            base: the image under the layer.
            disk: the layer's file in *workspace*.
            values: keys of the manifest that differ from those of *base*: ``name`` and others.
            made: how it was made, for people.
        """
        checked = self._home.folder("checked")
        content = as_manifest(base)
        for name in ("kernel", "initrd", "key"):
            if name in content:
                content[name] = relative_to_cache(Path(content[name]), workspace)
        digest = digest_of(disk.path)
        content |= {"disk": disk.path.name, "format": disk.format, "size": disk.path.stat().st_size, "sha256": digest}
        content.pop("extends", None)
        if files := backing_files(disk.path, disk.format):
            content["extends"] = {"image": base.name, "sha256": [known_digest(file, checked) for file in files]}
        content |= {**values, "made": dict(made)}
        seal(disk.path)
        write_manifest(workspace / MANIFEST, content)
        target = self._home.folder(FOLDER) / key
        shutil.rmtree(target, ignore_errors=True)
        workspace.rename(target)
        remember_digest(target / disk.path.name, digest, checked)
        return read_manifest(target / MANIFEST)

    def give_name(self, name: str, key: str) -> None:
        """Let *name* be the name of the layer *key*; a layer that had it before loses it.

        The caller has a lock, so that no other process gives a name now.
        """
        path = self._home.folder(SAVED) / name
        for leftover in path.parent.glob(".*"):
            # Of a process that was killed.
            leftover.unlink()
        fresh = path.with_name(f".{name}")
        fresh.write_text(f"{key}\n")
        fresh.replace(path)

    def all(self) -> list[Layer]:
        """All readable layers, by their names; their files are not checked."""
        names: dict[str, list[str]] = {}
        for path in sorted((self._home.path / SAVED).glob("[!.]*")):
            # Another process may remove it.
            with contextlib.suppress(OSError):
                names.setdefault(path.read_text().strip(), []).append(path.name)
        found = []
        for path in (self._home.path / FOLDER).glob(f"[!.]*/{MANIFEST}"):
            with contextlib.suppress(ConfigurationError):
                found.append(Layer(path.parent.name, read_manifest(path), tuple(names.get(path.parent.name, ()))))
        return sorted(found, key=lambda layer: (layer.image.name, layer.key))


def saved_manifest(name: str, home_path: Path) -> Path | None:
    """The manifest of the saved guest or of the installed system *name* in the cache folder *home_path*, or None."""
    if not IMAGE_NAME.fullmatch(name):
        return None
    installed = home_path / INSTALLED / name / MANIFEST
    if installed.is_file():
        return installed
    try:
        key = (home_path / SAVED / name).read_text().strip()
    except OSError:
        return None
    return home_path / FOLDER / key / MANIFEST if _KEY.fullmatch(key) else None


def saved_names(home_path: Path) -> tuple[str, ...]:
    """The names of the saved guests and of the installed systems in the cache folder *home_path*."""
    saved = [path.name for path in (home_path / SAVED).glob("[!.]*")]
    installed = [path.parent.name for path in (home_path / INSTALLED).glob(f"[!.]*/{MANIFEST}")]
    return tuple(sorted({*saved, *installed}))


def layers_over(folder: Path, home: Home) -> list[Path]:
    """The folders of the layers, also those of prepared disks, that are based on a file in *folder*."""
    real = folder.resolve()
    manifests = [path for name in (FOLDER, "prepared") for path in (home.path / name).glob(f"[!.]*/{MANIFEST}")]
    return [
        path.parent
        for path in sorted(manifests)
        if path.parent.resolve() != real and real in folders_of(path.parent / LAYER_FILE)
    ]


def check_name(name: str) -> None:
    """Check that an image can have this *name*.

    Raises:
        ConfigurationError: it cannot, or an image of the catalog has it.
    """
    if not isinstance(name, str) or not IMAGE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{short_repr(name)} is not a name of an image: use letters, digits, dots and dashes, at most 48"
        )
    if find_catalog_name(name) is not None:
        raise ConfigurationError(f"{name} is an image of the catalog\n  give the image another name")


def _describe(image: Image, checked: Path) -> dict[str, Any]:
    """All of *image* that the content of a layer over it depends on."""
    files = (image.disk, *backing_files(image.disk, image.format))
    return {
        "disk": [known_digest(file, checked) for file in files],
        "boot": [None if path is None else known_digest(path, checked) for path in (image.kernel, image.initrd)],
        "cmdline": image.cmdline,
        "firmware": image.firmware,
        "login": [image.user, *image.host_keys],
    }
