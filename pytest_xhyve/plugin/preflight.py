"""Checks, before any test runs, of what the guests need; imported only if a test or the user asks for guests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_xhyve.host.disk_size import check_size
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.catalog import read_recipes, read_stated
from pytest_xhyve.images.check import check_boots_by
from pytest_xhyve.images.files import check_files, check_stated_files, read_if_complete
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.images.own_login import OwnLogin, ask_for_password
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.sources import find_source, resolve_path
from pytest_xhyve.model.architecture import architecture_of, host_architecture
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.options import INI
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.plugin.selection import wanted_specs

# A test that may be skipped may not need its image, and an xfail test may be about an invalid one.
_MAY_NOT_RUN = ("skip", "skipif", "xfail")


class _Once:
    """Checks of images, each done once: the next one for the same image ends with the same error."""

    def __init__(self) -> None:
        self._errors: dict[str, XhyveError | None] = {}

    def check(self, image: str, check: Callable[[], None]) -> None:
        if image not in self._errors:
            # Also for a check that leads back to itself.
            self._errors[image] = None
            try:
                check()
            except XhyveError as problem:
                self._errors[image] = problem
        error = self._errors[image]
        if error is not None:
            raise error


class Preflight:
    """Checks each image once, and that no two images have the same name.

    Args:
        home: the cache folder; it is only read.
        settings: the run's settings.

    Attributes:
        login: how to log in to disks that are not of the catalog, with the password that the user was asked for.
    """

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._places = Places.of(home, settings)
        self.login = OwnLogin.of(settings)
        self._checked = _Once()
        self._prepared = _Once()
        self._manifests: dict[str, Path] = {}
        # Those whose disk exists already as their guests will see it.
        self._images: dict[str, Image] = {}
        # What is stated of the other disks.
        self._stated: dict[str, Manifest] = {}

    def check(self, wanted: Any) -> None:
        """Check that guests can be cloned from *wanted*, without reading its disk.

        An image of the catalog that is not built, or is incomplete, is not an error: the first guest builds it.

        Args:
            wanted: a name, a path or an `Image`.

        Raises:
            XhyveError: the image is missing or invalid, or another one has its name.
        """
        text = _as_text(wanted)
        self._checked.check(text, lambda: self._check(wanted, text))

    def check_disk(self, spec: GuestSpec) -> None:
        """Check that the disk of the image, which was checked, suits what a guest is made of.

        Of a disk that is not prepared yet, this reads what the host can read without a guest, which takes a second at
        most, against the minute of a preparation.

        Raises:
            XhyveError: it is larger than the guest's disk, has no boot loader, or cannot be prepared.
        """
        text = _as_text(spec.image)
        image = self._images.get(text)
        if image is None and text in self._stated:
            self._prepared.check(text, lambda: self._check_can_be_prepared(text))
        elif image is not None:
            check_size(spec.disk_size, image.disk)
            check_boots_by(spec.firmware or image.firmware, image)

    def check_firmware(self, spec: GuestSpec, settings: Settings) -> None:
        """Check that the UEFI firmware is there if a guest boots by it and QEMU may run that guest.

        Raises:
            HypervisorNotFound: it is not found.
        """
        text = _as_text(spec.image)
        image = self._images.get(text)
        if image is not None:
            stated = image.firmware
        else:
            stated = self._stated[text].values.get("firmware") if text in self._stated else None
        if (spec.firmware or stated) != "uefi" or settings.hypervisor not in ("auto", "qemu"):
            return
        from pytest_xhyve.hypervisors.qemu.firmware import find_ovmf  # noqa: PLC0415

        architecture = host_architecture() if image is None else architecture_of(image.arch)
        program = shutil.which(settings.executable or architecture.program)
        if program is not None:
            find_ovmf(Path(program), architecture=architecture)

    def _check(self, wanted: Any, text: str) -> None:
        if isinstance(wanted, Image):
            check_files(wanted)
            self._images[text] = wanted
            return
        source = find_source(text, places=self._places)
        if source.own is not None:
            recipes, base = read_recipes(source.own, self._places)
            for recipe in recipes:
                self._check_name(recipe.name, Path(recipe.where))
            self.check(base)
            return
        stated = read_stated(text, self.login, self._places)
        if stated is not None:
            self._check_name(stated.name, stated.path or stated.disk)
            if stated.needs_password:
                self.login = replace(self.login, password=ask_for_password(stated))
                stated = self.login.applied_to(stated)
            if not stated.needs_preparation:
                image = stated.image()
                check_files(image)
                self._images[text] = image
                return
            from pytest_xhyve.preparation.disk_file import look  # noqa: PLC0415

            self._stated[text] = stated
            check_stated_files(stated)
            look(stated.disk)
            return
        name = source.recipe or text
        manifest = self._home.path / "images" / f"{name}.yaml"
        self._check_name(name, manifest)
        built = read_if_complete(manifest)
        if built is not None:
            check_files(built)
            self._images[text] = built

    def _check_can_be_prepared(self, text: str) -> None:
        from pytest_xhyve.preparation.foresee import check_can_be_prepared  # noqa: PLC0415

        check_can_be_prepared(self._stated[text], self._home)

    def _check_name(self, name: str, path: Path) -> None:
        """Check that no other manifest or disk has the image's *name*; *path* is that of this one."""
        other = self._manifests.setdefault(name, path.resolve())
        if other != path.resolve():
            raise ConfigurationError(
                f"two images of this run are named {name!r}: {other} and {path}\n"
                "  give one of them another `name:` in its manifest, or rename the disk that has none, so that "
                "reports, host names and `pytest-xhyve ps` show different names"
            )


def _as_text(wanted: Any) -> str:
    return str(wanted.manifest if isinstance(wanted, Image) else wanted)


def resolve_images(settings: Settings, base: Path, *, check: bool) -> Settings:
    """*settings* with absolute paths of images, so that they stay valid if a test changes the folder.

    Images from the command line or the environment are checked here. Those of the ini file are checked when a test is
    about to use them, as the ini file also applies to runs without guests.

    Args:
        settings: the run's settings.
        base: the folder that a path is relative to.
        check: whether images are checked here at all.

    Raises:
        XhyveError: an image from the command line or the environment is missing or invalid; the message names the
            source.
    """
    source = settings.given["image"]
    written = source.startswith(INI)
    home = Home.of_user()
    preflight = Preflight(home, settings)
    images = []
    for image in settings.images:
        try:
            settled = resolve_path(image, base, Places.of(home, settings))
            if check and not written:
                preflight.check(settled)
        except XhyveError as error:
            if not written:
                raise type(error)(f"{source}: {error}") from error
            settled = image
        images.append(settled)
    return settings._replace(images=tuple(images), password=preflight.login.password)


def check_program(settings: Settings) -> None:
    """Check that the program of ``--xhyve-executable`` exists.

    Raises:
        ConfigurationError: no such program found.
    """
    program = settings.executable
    if program is not None and shutil.which(program) is None:
        where = "" if "/" in program else " in PATH"
        raise ConfigurationError(
            f"--xhyve-executable: no executable program {program!r} found{where}\n"
            f"  give the path of {host_architecture().program}, vfkit, xhyve or hyperkit, or remove the option"
        )


def find_problems(
    items: Iterable[pytest.Item], settings: Settings
) -> tuple[Settings, list[tuple[list[pytest.Item], str]]]:
    """Check the cache folder, the folders of the options, and the images of *items*; ignore tests that may not run.

    Args:
        items: the tests that will run and ask for a guest.
        settings: the run's settings.

    Returns:
        the settings, with the password that the user was asked for; and for each problem, the tests that have it, and a
        message that names them.
    """
    sure = [item for item in items if not any(item.get_closest_marker(mark) for mark in _MAY_NOT_RUN)]
    if not sure:
        return settings, []
    try:
        home = Home.of_user()
        home.folder("runs")
        _check_folder(settings, "artifacts", settings.artifacts)
        _check_folder(settings, "save_failures", settings.save_failures)
    except XhyveError as error:
        return settings, [(sure, str(error))]
    preflight = Preflight(home, settings)
    found: dict[str, list[pytest.Item]] = {}
    for item in sure:
        for problem in _image_problems(item, settings, preflight):
            found.setdefault(problem, []).append(item)
    settings = settings._replace(password=preflight.login.password)
    return settings, [(concerned, f"{_name_tests(concerned)}: {problem}") for problem, concerned in found.items()]


def _check_folder(settings: Settings, option: str, folder: Path | None) -> None:
    """Check that this run can write to *folder*, which *option* names."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigurationError(
            f"{settings.given[option]}: cannot write to {folder}: {error.strerror}\n"
            "  give a folder that you may write to, or that pytest can create"
        ) from error


def _image_problems(item: pytest.Item, settings: Settings, preflight: Preflight) -> Iterator[str]:
    for spec in wanted_specs(item):
        try:
            preflight.check(spec.image)
        except XhyveError as error:
            given = settings.given.get("image", "") if spec.image in settings.images else ""
            yield f"{given}: {error}" if given else str(error)
            continue
        try:
            preflight.check_disk(spec)
            preflight.check_firmware(spec, settings)
        except XhyveError as error:
            yield str(error)


def _name_tests(items: list[pytest.Item]) -> str:
    more = f" and {len(items) - 1} more" if len(items) > 1 else ""
    return f"{items[0].nodeid}{more}"
