"""The builder by which a test makes images itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pytest_xhyve.images.own_recipe import OwnRecipe, parse_own_recipe
from pytest_xhyve.model.image import Image


class ImageBuilder:
    """Builds images from a test's own code: ``xhyve_images.build(extends="debian12", run=["…"]) -> Image``.

    An image is a layer in the cache folder, which the next run finds there.
    """

    def __init__(self, build: Callable[[OwnRecipe, Path], Image], folder: Path) -> None:
        self._build = build
        self._folder = folder

    def build(
        self,
        *,
        extends: str | os.PathLike[str],
        packages: Sequence[str] = (),
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        run: Sequence[str] = (),
        size: int | str | None = None,
        cpus: int | None = None,
        memory: int | str | None = None,
        timeout: float | None = None,
        name: str = "built",
    ) -> Image:
        """The image that these steps make of another; it is built if that has not happened yet.

        The arguments are the keys of a recipe. The layer's key is their content, that of the files, and that of the
        image below: if one of them changes, the layer is built anew. Two processes that build the same wait for each
        other.

        Args:
            extends: a name, or the path of a disk, a manifest or a recipe; relative to the root folder of the run.
            packages: packages for the package manager of the system.
            files: paths in the guest, and the files or folders that are copied there; relative to the root folder, too.
            run: lines for the guest's shell, which root runs in this order; each must end with exit code 0.
            size: the size of the disk, into which the root file system grows; None for that of the image below.
            cpus: virtual CPUs of a guest of the image; None for those of the image below.
            memory: bytes, or a text such as ``512M``, with the same meaning of None.
            timeout: the limit of each step in seconds; 600 if None.
            name: the name of the image, for reports and host names.

        Raises:
            ConfigurationError: an argument is invalid, or the image below is not found.
            ImageError: a step failed; the message shows its output.
            XhyveError: the guest in which the steps run cannot be started.
        """
        keys = {
            "extends": os.fspath(extends),
            "packages": list(packages),
            "files": {remote: str(self._folder / local) for remote, local in (files or {}).items()},
            "run": list(run),
            "size": size,
            "cpus": cpus,
            "memory": memory,
            "timeout": timeout,
        }
        recipe = parse_own_recipe({key: value for key, value in keys.items() if value is not None}, name, None)
        return self._build(recipe, self._folder)
