"""List the content of the cache folder: the images of the catalog, and the templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.vanishing import changed_at
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.layers import LayerStore
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.recipe import find_catalog_name, read_recipe, recipe_names
from pytest_xhyve.model.errors import ConfigurationError, ImageError
from pytest_xhyve.model.values import format_size
from pytest_xhyve.templates.store import TemplateStore

_ROW_OF_IMAGES = "{:20} {:12} {:>10}  {:16}  {}"
_ROW_OF_TEMPLATES = "{:20} {:12} {:>10}  {:16}  {}"
_NONE = "-"


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image of the catalog.

    Attributes:
        name: its name.
        summary: the summary of its recipe.
        size: bytes on the disk, or None if it is not built.
        built: when it was built, in seconds since the epoch, or None if it is not built.
        problem: why the image cannot be used; empty if it can.
        sha256: the digest of its disk, or None if it is not known.
    """

    name: str
    summary: str
    size: int | None
    built: float | None
    problem: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """A layer over an image.

    Attributes:
        name: the name of the image that it is; of a saved guest, the names that it was given.
        key: the layer's key.
        size: bytes on the disk.
        made: when it was made, in seconds since the epoch.
        extends: the name of the image below it; empty if it stands alone.
        base: the digest of the disk below it, or None.
        sha256: the digest of its own disk.
        problem: why it cannot be used; empty if it can.
    """

    name: str
    key: str
    size: int
    made: float
    extends: str
    base: str | None
    sha256: str | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TemplateEntry:
    """A template.

    Attributes:
        image: the name of its image.
        key: the template's key.
        size: bytes on the disk.
        used: when a guest was last restored from it, in seconds since the epoch.
        in_use: whether a running guest uses it.
    """

    image: str
    key: str
    size: int
    used: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class CacheListing:
    """The content of the cache folder."""

    images: tuple[ImageEntry, ...]
    templates: tuple[TemplateEntry, ...]
    layers: tuple[LayerEntry, ...] = ()

    @classmethod
    def scan(cls, home: Home) -> CacheListing:
        """Read *home*; nothing is created there.

        Raises:
            XhyveError: the cache folder cannot be read.
        """
        folder = home.find_folder("images")
        images = tuple(_image(name, folder) for name in _image_names(folder))
        store = find_store(home)
        templates = () if store is None else tuple(_templates(store))
        return cls(images, templates, tuple(_layers(home)))

    def lines(self) -> Iterator[str]:
        """Two tables for people."""
        yield _ROW_OF_IMAGES.format("IMAGE", "STATE", "SIZE", "BUILT", "SUMMARY").rstrip()
        for image in self.images:
            state = "damaged" if image.problem else "not built" if image.size is None else "built"
            size = _NONE if image.size is None else format_size(image.size)
            yield _ROW_OF_IMAGES.format(image.name, state, size, _minute(image.built), image.summary).rstrip()
            if image.sha256 is not None:
                yield from self._tree(image.sha256, 1)
        known = {image.sha256 for image in self.images} | {layer.sha256 for layer in self.layers}
        for layer in self.layers:
            if layer.base not in known or layer.base is None:
                yield from self._branch(layer, 0)
        yield ""
        if not self.templates:
            yield "no templates"
            return
        yield _ROW_OF_TEMPLATES.format("TEMPLATE OF", "STATE", "SIZE", "LAST USED", "KEY")
        for template in self.templates:
            state = "in use" if template.in_use else "unused"
            size, used = format_size(template.size), _minute(template.used)
            yield _ROW_OF_TEMPLATES.format(template.image, state, size, used, template.key)

    def _tree(self, base: str, depth: int) -> Iterator[str]:
        """The rows of the layers over the disk with the digest *base*, and of those over them."""
        for layer in self.layers:
            if layer.base == base:
                yield from self._branch(layer, depth)

    def _branch(self, layer: LayerEntry, depth: int) -> Iterator[str]:
        name, state = f"{'  ' * depth}{layer.name}", "damaged" if layer.problem else "layer"
        what = layer.problem or (f"over {layer.extends}" if layer.extends else "")
        yield _ROW_OF_IMAGES.format(name, state, format_size(layer.size), _minute(layer.made), what).rstrip()
        if layer.sha256 is not None:
            yield from self._tree(layer.sha256, depth + 1)

    def as_json(self) -> dict[str, Any]:
        """The data for JSON: sizes in bytes, times in UTC as in ISO 8601."""
        return {
            "images": [
                {
                    "name": image.name,
                    "built": image.built is not None,
                    "bytes": image.size,
                    "built_at": None if image.built is None else iso_time(image.built),
                    "summary": image.summary,
                    "problem": image.problem or None,
                }
                for image in self.images
            ],
            "layers": [
                {
                    "name": layer.name,
                    "key": layer.key,
                    "bytes": layer.size,
                    "made_at": iso_time(layer.made),
                    "extends": layer.extends or None,
                    "problem": layer.problem or None,
                }
                for layer in self.layers
            ],
            "templates": [
                {
                    "image": template.image,
                    "key": template.key,
                    "bytes": template.size,
                    "used_at": iso_time(template.used),
                    "in_use": template.in_use,
                }
                for template in self.templates
            ],
        }


def find_store(home: Home) -> TemplateStore | None:
    """The store of templates in *home*, or None if it does not exist.

    Raises:
        XhyveError: its folder cannot be read.
    """
    folder = home.find_folder("templates")
    return None if folder is None else TemplateStore(folder, home.path / "checked")


def iso_time(seconds: float) -> str:
    """*seconds* since the epoch as in ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _image_names(folder: Path | None) -> list[str]:
    """The images of the catalog for this host's architecture, and those for others that were built."""
    built = set() if folder is None else {manifest.stem for manifest in folder.glob("*.yaml")}
    return sorted({*recipe_names(), *(name for name in built if find_catalog_name(name) == name)})


def _image(name: str, folder: Path | None) -> ImageEntry:
    summary = read_recipe(name).summary
    manifest = None if folder is None else folder / f"{name}.yaml"
    built = 0.0 if manifest is None else changed_at(manifest)
    if manifest is None or not built:
        return ImageEntry(name, summary, None, None)
    try:
        image = read_manifest(manifest)
    except ConfigurationError as error:
        return ImageEntry(name, summary, None, built, str(error))
    missing = [path for path in (image.disk, image.kernel, image.initrd) if path is not None and not path.exists()]
    problem = f"{missing[0]} is missing" if missing else ""
    files = {path for path in (image.disk, image.kernel, image.initrd) if path is not None}
    return ImageEntry(name, summary, sum(size_on_disk(path) for path in files), built, problem, image.sha256)


def _layers(home: Home) -> Iterator[LayerEntry]:
    for layer in LayerStore(home).all():
        image, problem = layer.image, ""
        try:
            backing_files(image.disk, image.format)
        except (ImageError, OSError) as error:
            problem = str(error).splitlines()[0]
        yield LayerEntry(
            ", ".join(layer.names) or image.name,
            layer.key,
            size_on_disk(image.manifest.parent),
            changed_at(image.manifest),
            "" if image.extends is None else image.extends.image,
            None if image.extends is None else image.extends.sha256[0],
            image.sha256,
            problem,
        )


def _templates(store: TemplateStore) -> Iterator[TemplateEntry]:
    for template in store.all():
        # If a template is removed at the same time, it is listed as unused, with size 0.
        yield TemplateEntry(
            template.image, template.key, template.size, template.last_used, store.is_in_use(template.folder)
        )


def _minute(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
