"""Write images to a folder or a pipe, and read them from there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.locks import locked
from pytest_xhyve.images.check import check_image
from pytest_xhyve.images.exchange import find_descriptions, import_folder, import_stream, write_folder, write_stream
from pytest_xhyve.images.exporting import Export, describe
from pytest_xhyve.images.importing import give_name
from pytest_xhyve.images.own_recipe import RECIPE
from pytest_xhyve.images.publishing import new_workspace
from pytest_xhyve.images.registry import PREFIX, check_address, pull_image, push_image
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings

STANDARD = "-"
"""The name of standard output or input."""


def export_image(wanted: str, settings: Settings, target: str, *, progress: Progress) -> None:
    """Export the image *wanted*; it is built or prepared first if need be.

    Args:
        wanted: a name, or the path of a disk, a manifest or a recipe.
        settings: for the guests that prepare it, and where names are looked up.
        target: the path of a folder, the address of an image in a registry, or `STANDARD`.
        progress: shows what takes long.

    Raises:
        ConfigurationError: standard output is a terminal.
        XhyveError: the image cannot be had or read.
        SystemExit: a signal ended this process; what is incomplete is not taken for an image.
    """
    if target == STANDARD and sys.stdout.isatty():
        raise ConfigurationError("standard output is a terminal\n  give a folder, or redirect it to a pipe")
    if is_in_registry(target):
        check_address(target)
    home = Home.of_user()
    with TerminationSignals():
        export = describe_image(wanted, settings, progress)
        with progress.activity(f"exporting {export.image.name}"):
            if target == STANDARD:
                write_stream(export, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            elif is_in_registry(target):
                with home.explain_os_errors(), _workspace(home, progress) as folder:
                    push_image(export, target, folder, progress.line, factor=settings.timeout_factor)
            else:
                write_folder(export, Path(target), progress.line)
    progress.line(f"exported {export.image.name}; a private key is in it" if export.has_key else "exported")


def describe_image(wanted: str, settings: Settings, progress: Progress) -> Export:
    """The image *wanted*, ready for an export; it is built or prepared first if need be."""
    home = Home.of_user()
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with closing(fleet), home.explain_os_errors():
        image = fleet.catalog.find(wanted)
        checked = home.folder("checked")
        check_image(image, checked)
        return describe(image, checked)


def find_exported(path: str) -> Sequence[Path] | None:
    """The descriptions of the exported images in the folder *path*; None if *path* is something else.

    It is empty for standard input.
    """
    if path == STANDARD:
        return ()
    folder = Path(path)
    return find_descriptions(folder) or None if folder.is_dir() and not (folder / RECIPE).exists() else None


def is_in_registry(text: str) -> bool:
    """Whether *text* is meant as the address of an image in a registry."""
    return text.startswith(PREFIX)


def import_from_registry(address: str, name: str | None, settings: Settings, *, progress: Progress) -> Image:
    """Import the image at *address* in a registry; see `pull_image` for the errors.

    Args:
        address: its address.
        name: another name for the image.
        settings: for the limits of time.
        progress: shows what takes long.
    """
    home = Home.of_user()
    with TerminationSignals(), home.explain_os_errors():
        exported, image = pull_image(check_address(address), home, progress.line, name, factor=settings.timeout_factor)
        give_name(exported, home)
        progress.line(f"imported {exported.name}: use it as --xhyve-image={exported.name}")
        return image


@contextmanager
def _workspace(home: Home, progress: Progress) -> Iterator[Path]:
    """A folder on the disk of the cache folder, where there is room for images; `prune` knows it."""
    folder, name = home.folder("images"), "export"
    with (
        locked(folder / f"{name}.lock", "exports to a registry", report=progress.line),
        new_workspace(folder, name) as workspace,
    ):
        yield workspace


def import_exported(descriptions: Sequence[Path], name: str | None, *, progress: Progress) -> list[Image]:
    """Import the images at *descriptions*, or the one that standard input has if there are none.

    Args:
        descriptions: from `find_exported`.
        name: another name for the image.
        progress: shows what takes long.

    Raises:
        ConfigurationError: several images cannot get one name.
        ImageError: a file is damaged, or is not what it should be; of its image, nothing is imported.
        SystemExit: a signal ended this process.
    """
    if name is not None and len(descriptions) > 1:
        names = ", ".join(each.stem for each in descriptions)
        raise ConfigurationError(f"--name: the folder has several images ({names})\n  leave it out")
    home = Home.of_user()
    imported = []
    with TerminationSignals(), home.explain_os_errors():
        for description in descriptions or (None,):
            if description is None:
                exported, image = import_stream(sys.stdin.buffer, home, progress.line, name)
            else:
                exported, image = import_folder(description, home, progress.line, name)
            give_name(exported, home)
            progress.line(f"imported {exported.name}: use it as --xhyve-image={exported.name}")
            imported.append(image)
    return imported
