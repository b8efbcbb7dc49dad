"""Exported images as files: a folder, or a stream for a pipe.

``FOLDER/NAME.json`` is the description of an image, and ``FOLDER/files/SHA256.zst`` the content of a file, which
several images may have. The stream is a tar archive of the same, not compressed file by file, but as a whole.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from pytest_xhyve.formats.compression import DamagedFile, decompressed
from pytest_xhyve.formats.pieces import Pieces
from pytest_xhyve.formats.tar import DamagedArchive, TarReader
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.exported import MOST_BYTES, ExportedImage, parse_description
from pytest_xhyve.images.exporting import Export
from pytest_xhyve.images.importing import find_imported, importing
from pytest_xhyve.images.layers import check_name
from pytest_xhyve.images.recipe import name_here
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.values import format_size

_FILES = "files"
DESCRIBED, COMPRESSED = ".json", ".zst"
"""How the names of a description and of a file end."""

_DESCRIPTION = "image.json"
# The fastest level makes a disk a third of its size.
_LEVEL = 1

Report = Callable[[str], None]


def write_folder(export: Export, folder: Path, report: Report) -> Path:
    """Write *export* into *folder*, beside what was exported there before.

    Args:
        export: the image.
        folder: created if it is missing, for this user only: a private key is in it.
        report: called with a line for each file.

    Returns:
        the path of the description, which is written last.

    Raises:
        ImageError: a layer cannot be exported.
        OSError: the folder cannot be written.
    """
    for each in (folder, folder / _FILES):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    for sha256, content in export.contents.items():
        target = folder / _FILES / f"{sha256}{COMPRESSED}"
        if target.exists():
            continue
        report(f"exporting {content.path}")
        _write(target, compressed(content.pieces()))
    path = folder / f"{export.image.name}{DESCRIBED}"
    _write(path, [_describe(export.image)])
    return path


def find_descriptions(folder: Path) -> list[Path]:
    """The descriptions of the exported images in *folder*; none if it is not such a folder."""
    return sorted(folder.glob(f"[!.]*{DESCRIBED}")) if (folder / _FILES).is_dir() else []


def import_folder(
    description: Path, home: Home, report: Report, name: str | None = None
) -> tuple[ExportedImage, Image]:
    """Import the image at *description*, in a folder of `write_folder`, into the cache folder *home*.

    Args:
        description: its description.
        home: the cache folder.
        report: called with a line for each file.
        name: another name for the image.

    Raises:
        ImageError: a file is missing, damaged, not a file, or not what the description states.
        ConfigurationError: the image cannot have its name; the manifest is invalid.
        OSError: a file cannot be read or written.
    """
    with _open_regular(description) as file:
        described = read_described(file, str(description))
    files = description.parent / _FILES

    def open_file(sha256: str) -> IO[bytes]:
        path = files / f"{sha256}{COMPRESSED}"
        report(f"importing {path}")
        return _open_regular(path)

    return import_described(described, home, report, open_file, name)


def read_described(file: IO[bytes], path: str) -> ExportedImage:
    """The image that *file*, the description at *path*, describes; another person may have written it.

    Raises:
        ImageError: it is not a description, or one with another name than its file.
    """
    content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ImageError(f"{path} is not the description of an exported image: it is too long")
    described = parse_description(content)
    if described.name != Path(path).stem:
        # An image gets the name that it states, also if an image of the catalog has it here.
        raise ImageError(f"{path} describes an image named {described.name}: rename the file to that")
    return described


def import_described(
    described: ExportedImage,
    home: Home,
    report: Report,
    open_file: Callable[[str], AbstractContextManager[IO[bytes]]],
    name: str | None = None,
) -> tuple[ExportedImage, Image]:
    """Import the image *described*; the rest is as in `import_folder`.

    Args:
        described: its description.
        home: the cache folder.
        report: called with a line if another process imports the same.
        open_file: opens the compressed file of a SHA-256 that the cache folder does not have.
        name: another name for the image.
    """
    image = _renamed(described, name)
    with importing(image, home, report) as importer:
        found = find_imported(image, home)
        if found is not None:
            return image, found
        for sha256 in importer.missing():
            with open_file(sha256) as file:
                importer.add(sha256, _decompressed(file, f"{sha256}{COMPRESSED}"))
        return image, importer.publish()


def write_stream(export: Export, file: IO[bytes]) -> None:
    """Write *export* to *file*, which need not be seekable.

    Raises:
        ImageError: a layer cannot be exported.
        OSError: the file cannot be written.
    """
    import zstandard  # noqa: PLC0415

    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1, write_checksum=True)
    sizes = {each.sha256: each.size for each in export.image.files.values()}
    with compressor.stream_writer(file, closefd=False) as stream:
        description = _describe(export.image)
        _write_member(stream, _DESCRIPTION, len(description), [description])
        for sha256, content in export.contents.items():
            _write_member(stream, f"{_FILES}/{sha256}", sizes[sha256], content.pieces())
        stream.write(bytes(2 * tarfile.BLOCKSIZE))


def import_stream(file: IO[bytes], home: Home, report: Report, name: str | None = None) -> tuple[ExportedImage, Image]:
    """Import the image of a stream that `write_stream` wrote; the rest is as in `import_folder`."""
    content = Pieces(_decompressed(file, "the stream"))
    try:
        return _import_archive(TarReader(content.read), home, report, name)
    except DamagedArchive as error:
        raise ImageError(f"the stream is not an exported image, or not a whole one: {error}") from error


def _import_archive(archive: TarReader, home: Home, report: Report, name: str | None) -> tuple[ExportedImage, Image]:
    members = archive.members()
    first = next(members, None)
    if first is None or first.name != _DESCRIPTION or first.size > MOST_BYTES:
        raise ImageError("the stream is not an exported image")
    image = _renamed(parse_description(b"".join(data for _, data in archive.data())), name)
    with importing(image, home, report) as importer:
        found = find_imported(image, home)
        missing = () if found is not None else importer.missing()
        for member in members:
            folder, _, sha256 = member.name.partition("/")
            if folder != _FILES or "/" in sha256:
                raise ImageError(f"the stream has an unexpected file: {member.name[:200]!r}")
            if sha256 in missing:
                report(f"importing {sha256[:12]}: {format_size(member.size)}")
                importer.add(sha256, (data for _, data in archive.data()))
        return image, importer.publish() if found is None else found


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """*pieces*, compressed by zstd, with a checksum."""
    # Only who exports needs it.
    import zstandard  # noqa: PLC0415

    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1, write_checksum=True).compressobj()
    yield from filter(None, map(compressor.compress, pieces))
    yield compressor.flush()


def _describe(image: ExportedImage) -> bytes:
    return json.dumps(image.to_dict(), indent=2, sort_keys=True).encode() + b"\n"


def _renamed(image: ExportedImage, name: str | None) -> ExportedImage:
    if name is None:
        # Another host may be of another processor, and its image of the catalog one for that.
        own = name_here(image.name, str(image.manifest.get("arch", "")))
        return image if own == image.name else image.with_name(own)
    if name == image.name:
        return image
    check_name(name)
    return image.with_name(name)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file that only this user can read at *path*, in one step."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _write_member(stream: IO[bytes], name: str, size: int, pieces: Iterable[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    stream.write(member.tobuf(tarfile.GNU_FORMAT))
    for piece in pieces:
        stream.write(piece)
    stream.write(bytes(-size % tarfile.BLOCKSIZE))


def _open_regular(path: Path) -> IO[bytes]:
    """Open a file that another person may have put there: no link is followed, and no device or FIFO is read.

    Raises:
        ImageError: it is missing, or not a file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}\n  export the image again") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"{path} is not a file: it is not imported")
    return os.fdopen(fd, "rb")


def _decompressed(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from decompressed(file, "zstd")
    except DamagedFile as error:
        raise ImageError(f"{name} is damaged or cut off: {error}\n  nothing was imported; export it again") from error
