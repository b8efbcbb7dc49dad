"""Export an image: its description, and the content of its files as it is everywhere.

A layer names the file that it is based on. In an exported layer, that name is the same on each host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.formats.qcow2 import HEAD_BYTES, read_qcow2_header, with_backing
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.sparse_file import read_pieces
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.images.exported import INITRD, KERNEL, KEY, KEYS, ExportedFile, ExportedImage, disk_name
from pytest_xhyve.images.manifest import as_manifest
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image, to_image_name

IMPORTED = "imported"
"""A key of ``made`` in the manifest of an image of the catalog that was imported, and is not built again."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an exported file.

    Attributes:
        path: the file.
        below: the name of the file below it in the export, if it is another one than the file names; None otherwise.
    """

    path: Path
    below: str | None = None

    def pieces(self) -> Iterator[bytes]:
        """The content, in pieces.

        Raises:
            ImageError: the file has no room for the name of the file below it.
            OSError: the file cannot be read.
        """
        pieces = read_pieces(self.path)
        if self.below is None:
            yield from pieces
            return
        head = b""
        for piece in pieces:
            head += piece
            if len(head) >= HEAD_BYTES:
                break
        try:
            yield with_backing(head, self.below)
        except ValueError as error:
            raise ImageError(f"cannot export the layer {self.path}: {error}") from error
        yield from pieces

    def digest(self, checked: Path) -> str:
        """The SHA-256 of the content, in hexadecimal."""
        if self.below is None:
            return known_digest(self.path, checked)
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Export:
    """An image to export.

    Attributes:
        image: its description.
        contents: the content of each file, by its SHA-256.
    """

    image: ExportedImage
    contents: Mapping[str, Content]

    @property
    def has_key(self) -> bool:
        """Whether a private key is among the files."""
        return KEY in self.image.files


def describe(image: Image, checked: Path) -> Export:
    """Describe *image* for an export; nothing is copied.

    Args:
        image: an image whose files were checked.
        checked: the folder of remembered digests.

    Raises:
        ImageError: a file is missing, or a layer does not state the format of the file below it.
        OSError: a file cannot be read.
    """
    disks = (image.disk, *backing_files(image.disk, image.format))
    formats = [str(image.format)]
    contents: dict[str, Content] = {}
    for number, path in enumerate(disks):
        below = disk_name(number + 1) if number + 1 < len(disks) else None
        header = read_qcow2_header(path) if below is not None else None
        if header is not None:
            if header.backing_format not in ("raw", "qcow2"):
                raise ImageError(
                    f"{path} does not state the format of the file below it\n"
                    f"  let it: `qemu-img rebase -u -F FORMAT -b {header.backing} {path}`"
                )
            formats.append(header.backing_format)
            below = None if header.backing == below else below
        contents[disk_name(number)] = Content(path, below)
    for name, file in ((KERNEL, image.kernel), (INITRD, image.initrd), (KEY, image.key)):
        if file is not None:
            contents[name] = Content(file)
    files = {
        name: ExportedFile(content.digest(checked), content.path.stat().st_size) for name, content in contents.items()
    }
    manifest = {key: value for key, value in as_manifest(image).items() if key in KEYS}
    manifest["name"] = to_image_name(image.name)
    manifest["made"] = _plain({key: value for key, value in image.made.items() if key != IMPORTED})
    described = ExportedImage(
        manifest, None if image.extends is None else to_image_name(image.extends.image), tuple(formats), files
    )
    return Export(described, {files[name].sha256: content for name, content in contents.items()})


def _plain(value: object) -> object:
    """*value*, of a YAML file, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
