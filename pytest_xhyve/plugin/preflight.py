"""What a run needs for its guests, looked at before any test runs; imported only where somebody asks for guests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.catalog import find_manifest, read_image, resolve_path
from pytest_xhyve.images.files import check_files
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import INI, Settings
from pytest_xhyve.plugin.selection import base_of, named_images

# A test that may be skipped may do without its image, and one that is to fail may be about a wrong one.
_MAY_NOT_RUN = ("skip", "skipif", "xfail")


class Preflight:
    """Looks at each image once, and sees that no two have one name.

    Args:
        home: the plugin's folder; nothing is made there.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._looked_at: dict[str, XhyveError | None] = {}
        self._named: dict[str, Path] = {}

    def look(self, wanted: Any) -> None:
        """See that guests can be made from *wanted*, as far as can be seen at once; disks are not read through.

        An image of the catalog that is not built yet, or not whole, is left to the build.

        Raises:
            XhyveError: there is no such image, it is wrong, or another one has its name.
        """
        text = str(wanted.manifest if isinstance(wanted, Image) else wanted)
        if text not in self._looked_at:
            self._looked_at[text] = None
            try:
                self._look(wanted, text)
            except XhyveError as error:
                self._looked_at[text] = error
        wrong = self._looked_at[text]
        if wrong is not None:
            raise wrong

    def _look(self, wanted: Any, text: str) -> None:
        if isinstance(wanted, Image):
            check_files(wanted)
            return
        manifest = find_manifest(text)
        if manifest is not None:
            image = read_image(text, manifest)
            self._check_name(image.name, manifest)
            check_files(image)
            return
        manifest = self._home.path / "images" / f"{text}.yaml"
        self._check_name(text, manifest)
        try:
            image = read_manifest(manifest)
        except ConfigurationError:
            return
        if all(path.exists() for path in (image.disk, image.kernel, image.initrd, image.key) if path is not None):
            check_files(image)

    def _check_name(self, name: str, manifest: Path) -> None:
        other = self._named.setdefault(name, manifest.resolve())
        if other != manifest.resolve():
            raise ConfigurationError(
                f"two images of this run are named {name!r}: {other} and {manifest}\n"
                "  give one of them another `name:` in its manifest, so that reports, host names and `pytest-xhyve ps` "
                "can tell them apart"
            )


def resolve_images(settings: Settings, config: pytest.Config) -> Settings:
    """*settings* with the images that were given settled for the whole run, whatever folder a test changes to.

    What somebody gave for this run, on the command line or in the environment, is looked at here. The ini file is
    there in every run, also in those that want no guest: what it names is looked at when a test is about to use it.

    Raises:
        XhyveError: an image that was given for this run cannot be used; the message names its source.
    """
    source = settings.given["image"]
    written = source.startswith(INI)
    base = base_of(source, config)
    preflight = Preflight(Home.of_user())
    images = []
    for image in settings.images:
        try:
            settled = resolve_path(image, base)
            # A worker of xdist can tell nobody, and the controller has done it.
            if not written and not hasattr(config, "workerinput"):
                preflight.look(settled)
        except XhyveError as error:
            if not written:
                raise type(error)(f"{source}: {error}") from error
            settled = image
        images.append(settled)
    return replace(settings, images=tuple(images))


def check_program(settings: Settings) -> None:
    """See that the program that was given for this run is there.

    Raises:
        ConfigurationError: it is not.
    """
    program = settings.executable
    if program is not None and shutil.which(program) is None:
        where = "" if "/" in program else " in PATH"
        raise ConfigurationError(
            f"--xhyve-executable: there is no program {program!r}{where} that may be executed\n"
            "  give the path of qemu-system-x86_64, xhyve or hyperkit, or leave it out"
        )


def find_wrong(items: Iterable[pytest.Item], settings: Settings) -> list[tuple[list[pytest.Item], str]]:
    """What keeps *items* from getting guests, as far as can be seen at once: the tests that it concerns, and why.

    That is the plugin's folder, that of the artifacts, and the images that they name. Tests that may not run are left
    out.

    Args:
        items: those that ask for a guest, of the tests that will run.
        settings: what was asked for.
    """
    sure = [item for item in items if not any(item.get_closest_marker(mark) for mark in _MAY_NOT_RUN)]
    if not sure:
        return []
    try:
        home = Home.of_user()
        home.folder("runs")
        _check_artifacts(settings)
    except XhyveError as error:
        return [(sure, str(error))]
    preflight = Preflight(home)
    found: dict[str, list[pytest.Item]] = {}
    for item in sure:
        for why in _wrong_images(item, settings, preflight):
            found.setdefault(why, []).append(item)
    return [(concerned, f"{_names(concerned)}: {why}") for why, concerned in found.items()]


def _check_artifacts(settings: Settings) -> None:
    folder = settings.artifacts
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigurationError(
            f"{settings.given['artifacts']}: cannot write to {folder}: {error.strerror}\n"
            "  give a folder that you may write to, or one that can be made"
        ) from error


def _wrong_images(item: pytest.Item, settings: Settings, preflight: Preflight) -> Iterator[str]:
    for image in named_images(item):
        try:
            preflight.look(image)
        except XhyveError as error:
            given = settings.given.get("image", "") if image in settings.images else ""
            yield f"{given}: {error}" if given else str(error)


def _names(items: list[pytest.Item]) -> str:
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return f"{items[0].nodeid}{more}"
