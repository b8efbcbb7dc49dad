"""Import an image that was exported: check each file, and publish the image in one step.

The files may come from another person. Each is written under a name of the plugin's own, into a new folder, and counts
only once its SHA-256 is that of the description. A process that is killed on the way leaves nothing that is taken for
an image.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_xhyve.formats.qcow2 import read_qcow2_header
from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.digests import known_digest, remember_digest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import LAYER_FILE
from pytest_xhyve.host.locks import locked
from pytest_xhyve.host.sparse_file import write_pieces
from pytest_xhyve.host.vanishing import find_existing
from pytest_xhyve.images.exported import DISK, INITRD, KERNEL, KEY, ExportedFile, ExportedImage, disk_name
from pytest_xhyve.images.exporting import IMPORTED
from pytest_xhyve.images.files import check_files, read_if_complete
from pytest_xhyve.images.layers import FOLDER, MANIFEST, LayerStore, check_name
from pytest_xhyve.images.manifest import as_manifest, read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.images.recipe import find_catalog_name
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image

_IMAGES = "images"
# The digits in the name of a folder of `pytest_xhyve.images.build`.
_DIGITS = 12
_FILES = {KERNEL: "vmlinuz", INITRD: "initrd.img", KEY: "client_key"}


class Importer:
    """Imports one image into the cache folder *home*; `importing` makes one.

    Args:
        image: the image.
        workspace: the folder for its files.
        home: the cache folder.
    """

    def __init__(self, image: ExportedImage, workspace: Path, home: Home) -> None:
        self._image = image
        self._workspace = workspace
        self._home = home
        self._here: dict[str, Path] = {}

    def missing(self) -> tuple[str, ...]:
        """The SHA-256 of each file that is not in the cache folder, in the order of their names.

        What another image of the cache folder has is taken from there.
        """
        wanted = {file.sha256: file for _, file in sorted(self._image.files.items())}
        for path in _known_files(self._home):
            for sha256, file in wanted.items():
                if sha256 not in self._here and self._has_content(path, file):
                    self._here[sha256] = path
        return tuple(sha256 for sha256 in wanted if sha256 not in self._here)

    def add(self, sha256: str, pieces: Iterable[bytes]) -> None:
        """Write the file *sha256*, which is missing.

        Raises:
            ImageError: the content is not that of the description.
            OSError: the file cannot be written.
        """
        file = next((file for file in self._image.files.values() if file.sha256 == sha256), None)
        if file is None:
            raise ImageError(f"a file has come that {self._image.name} does not have: {sha256[:64]}")
        path = self._workspace / sha256
        write_pieces(path, _checked(pieces, file, self._image.name))
        self._here[sha256] = path

    def publish(self) -> Image:
        """Turn the files into the image.

        Raises:
            ImageError: a file is missing or is not what it should be.
            ConfigurationError: a value of the manifest is invalid.
            OSError: a file cannot be written.
        """
        names = _file_names(self._image)
        for name, file in self._image.files.items():
            source = self._here.get(file.sha256)
            if source is None:
                raise ImageError(f"a file of {self._image.name} has not come: {name}")
            clone_file(source, self._workspace / names[name])
        for sha256, path in self._here.items():
            if path == self._workspace / sha256:
                path.unlink()
        self._check_layers(names)
        write_manifest(self._workspace / MANIFEST, self._manifest(names))
        # All values are checked as those of a manifest that a user wrote.
        check_files(read_manifest(self._workspace / MANIFEST))
        seal(*(self._workspace / name for name in names.values()))
        if KEY in names:
            (self._workspace / names[KEY]).chmod(0o600)
        target, checked = folder_of(self._image, self._home), self._home.folder("checked")
        # Nothing that is complete has this name: that would have been found.
        shutil.rmtree(target, ignore_errors=True)
        self._workspace.rename(target)
        for name, file in self._image.files.items():
            remember_digest(target / names[name], file.sha256, checked)
        return read_manifest(target / MANIFEST)

    def _has_content(self, path: Path, file: ExportedFile) -> bool:
        try:
            return path.stat().st_size == file.size and known_digest(path, self._home.folder("checked")) == file.sha256
        except OSError:
            # It is being removed.
            return False

    def _check_layers(self, names: dict[str, str]) -> None:
        """Check that each layer is based on the next file of this image, and on no file of the host."""
        last = len(self._image.formats) - 1
        for number, kind in enumerate(self._image.formats):
            if kind == "raw":
                continue
            header = read_qcow2_header(self._workspace / names[disk_name(number)])
            below = disk_name(number + 1) if number < last else None
            below_format = self._image.formats[number + 1] if number < last else None
            if header is None or header.encrypted or header.has_data_file or header.backing != below:
                raise ImageError(f"a layer of {self._image.name} is not based on the next one: it is not imported")
            if header.backing_format != below_format:
                raise ImageError(f"a layer of {self._image.name} states another format of the file below it")

    def _manifest(self, names: dict[str, str]) -> dict[str, Any]:
        disk, below = self._image.files[DISK], range(1, len(self._image.formats))
        content = {**self._image.manifest, "disk": names[DISK], "format": self._image.formats[0]}
        content |= {"size": disk.size, "sha256": disk.sha256}
        content |= {name: names[name] for name in _FILES if name in names}
        if self._image.base is not None and below:
            digests = [self._image.files[disk_name(number)].sha256 for number in below]
            content["extends"] = {"image": self._image.base, "sha256": digests}
        return content


@contextmanager
def importing(image: ExportedImage, home: Home, report: Callable[[str], None]) -> Iterator[Importer]:
    """An importer of *image*; no other process imports the same image until the end of the block.

    Raises:
        ConfigurationError: the image cannot have its name.
    """
    if find_catalog_name(image.name) is None:
        check_name(image.name)
    target = folder_of(image, home)
    # The same locks and names as those of what is built or made here: `pytest_xhyve.cli.prune` knows them.
    name = image.name if find_catalog_name(image.name) is not None else target.name
    with (
        locked(target.with_name(f"{name}.lock"), f"imports or builds {image.name}", report=report),
        new_workspace(target.parent, name) as workspace,
    ):
        yield Importer(image, workspace, home)


def find_imported(image: ExportedImage, home: Home) -> Image | None:
    """*image*, if it was imported into the cache folder *home*, or else None."""
    return read_if_complete(folder_of(image, home) / MANIFEST)


def give_name(image: ExportedImage, home: Home) -> None:
    """Let the name of *image*, which was imported, name it in the cache folder *home* from now on.

    An image of the catalog takes the place of the one that was built here, and is not built again.
    """
    folder = folder_of(image, home)
    if find_catalog_name(image.name) is None:
        LayerStore(home).give_name(image.name, folder.name)
        return
    content = as_manifest(read_manifest(folder / MANIFEST))
    for key in ("disk", KERNEL, INITRD, KEY):
        if key in content:
            content[key] = f"{folder.name}/{Path(content[key]).name}"
    content["made"] = {**content["made"], IMPORTED: True}
    with locked(folder.with_name(f"{image.name}.lock"), f"builds {image.name}"):
        write_manifest(folder.with_name(f"{image.name}.yaml"), content)


def folder_of(image: ExportedImage, home: Home) -> Path:
    """The folder of *image* in the cache folder *home*: among the catalog's builds, or among the layers."""
    if find_catalog_name(image.name) is not None:
        return home.folder(_IMAGES) / f"{image.name}-{image.key[:_DIGITS]}"
    return home.folder(FOLDER) / image.key


def _file_names(image: ExportedImage) -> dict[str, str]:
    """The name of each file of *image* in its folder."""
    names = {disk_name(number): disk_name(number) for number in range(1, len(image.formats))}
    # `pytest_xhyve.cli.prune` looks for these.
    names[DISK] = "disk.img" if image.formats[0] == "raw" else LAYER_FILE
    return names | {name: file for name, file in _FILES.items() if name in image.files}


def _known_files(home: Home) -> Iterator[Path]:
    """The files of the images in the cache folder."""
    for room in (_IMAGES, FOLDER):
        yield from (path for path in find_existing(home.path / room, "[!.]*/*") if path.is_file())


def _checked(pieces: Iterable[bytes], file: ExportedFile, name: str) -> Iterator[bytes]:
    """*pieces*, as long as they may be the content of *file*.

    Raises:
        ImageError: they are not its content.
    """
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        size += len(piece)
        if size > file.size:
            break
        digest.update(piece)
        yield piece
    if size != file.size or digest.hexdigest() != file.sha256:
        raise ImageError(
            f"a file of {name} is damaged: it is not the {file.size} bytes with the SHA-256 {file.sha256}\n"
            "  nothing was imported; export the image again"
        )
