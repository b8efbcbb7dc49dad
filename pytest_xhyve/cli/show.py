"""What is known of an image or a disk: found on the disk, or stated by a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.catalog import read_recipes, read_source
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.keys import client_key
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.recipe import read_recipe
from pytest_xhyve.images.sources import Source, find_source
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.values import format_size
from pytest_xhyve.preparation.description import describe_disk, describe_image, describe_stated
from pytest_xhyve.preparation.disk_file import look
from pytest_xhyve.preparation.examine import CMDLINE, INITRD, KERNEL, copy_boot_files, examine, new_files
from pytest_xhyve.preparation.run_context import RunContext

_Result = TypeVar("_Result")
_INDENT = 17


def describe(wanted: str, settings: Settings, *, progress: Progress) -> dict[str, Any]:
    """What is known of the image or disk *wanted*, as data for JSON.

    Raises:
        XhyveError: it is not found, or cannot be read.
        SystemExit: a signal ended this process; the helper guest is removed.
    """
    home = Home.of_user()
    source, manifest, image = _find(wanted, home, settings)
    if image is not None:
        return describe_image(image)
    if source.own is not None:
        recipes, base = read_recipes(source.own, Places.of(home, settings))
        own = recipes[0]
        extends = [each.name for each in recipes[1:]] + [base]
        content = {key: value for key, value in own.content().items() if key != "files"}
        return {"name": own.name, "recipe": own.where, "extends": extends, **content, "files": sorted(own.files)}
    if manifest is None:
        recipe = read_recipe(source.recipe or wanted)
        return {"name": recipe.name, "manifest": None, "summary": recipe.summary, "arch": recipe.architecture.name}
    disk = manifest.disk
    look(disk)
    _, client = client_key(home.folder("keys"))
    examined, facts = _in_run(
        home, settings, progress, f"looking into {wanted}", lambda context: examine(disk, context)
    )
    return describe_disk(disk, examined, facts, client) | describe_stated(manifest)


def copy_out(wanted: str, folder: Path, settings: Settings, *, progress: Progress) -> list[Path]:
    """Copy the files of a direct boot of *wanted* into *folder*; return the paths of the copies.

    Raises:
        XhyveError: *wanted* cannot be read, or *folder* cannot be written.
        SystemExit: a signal ended this process; the helper guest is removed.
    """
    home = Home.of_user()
    source, manifest, image = _find(wanted, home, settings)
    if image is not None and image.kernel is not None:
        with new_files(folder) as copies:
            shutil.copyfile(image.kernel, copies / KERNEL)
            if image.initrd is not None:
                shutil.copyfile(image.initrd, copies / INITRD)
            (copies / CMDLINE).write_text(f"{image.cmdline}\n")
        return [folder / name for name in (KERNEL, INITRD, CMDLINE) if (folder / name).exists()]
    if source.own is not None:
        raise ConfigurationError(f"{wanted} is a recipe\n  give the image that it extends: guests boot by its files")
    if manifest is None:
        raise ConfigurationError(f"{wanted} is not built yet\n  run `pytest-xhyve build {wanted}` first")
    disk = manifest.disk
    look(disk)
    return _in_run(
        home, settings, progress, f"looking into {wanted}", lambda context: copy_boot_files(disk, folder, context)
    )


def lines(found: dict[str, Any]) -> Iterator[str]:
    """*found* for people; what is not known is left out."""
    for key, value in found.items():
        texts = list(_texts(key, value))
        for number, text in enumerate(texts):
            label = f"{key.replace('_', ' ')}:" if number == 0 else ""
            yield f"{label:{_INDENT}}{text}"


def _texts(key: str, value: Any) -> Iterator[str]:
    if value is None or value in ([], {}):
        return
    if isinstance(value, list):
        for each in value:
            yield _row(key, each) if isinstance(each, dict) else str(each)
    elif key == "network":
        yield from (f"card {card}" for card in value["cards"])
        yield from value["files"]
        if value["cloud_init"]:
            yield "cloud-init"
    elif isinstance(value, dict):
        yield from (f"{name}: {each}" for name, each in value.items() if each is not None)
    elif key in ("memory", "size"):
        yield format_size(value)
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    else:
        yield from str(value).splitlines()


def _row(key: str, each: dict[str, Any]) -> str:
    if key == "volumes":
        size = "" if each["bytes"] is None else f", {format_size(each['bytes'])}"
        return f"{each['name']}: {each['type'] or 'unknown'}{size}"
    if key == "users":
        password = {"set": "has a password", "none": "has no password", "locked": "cannot log in by password"}
        return f"{each['name']} ({each['uid']}), {each['shell']}, {password.get(each['password'], 'unknown')}"
    return f"{each['path']}, line {each['line']}: {each['key']} {each['value']}"


def _find(wanted: str, home: Home, settings: Settings) -> tuple[Source, Manifest | None, Image | None]:
    """What *wanted* names, its manifest as `read_source` returns it, and its image as `_find_image` does.

    Raises:
        ConfigurationError: nothing is found, its manifest is invalid, or its disk was not pulled yet.
    """
    places = Places.of(home, settings)
    source = find_source(wanted, places=places)
    manifest = read_source(wanted, source, places)
    if source.address is not None and manifest is None:
        raise ConfigurationError(f"{wanted} was not pulled yet\n  run `pytest-xhyve pull {wanted}` first")
    return source, manifest, _find_image(source, manifest, home)


def _find_image(source: Source, manifest: Manifest | None, home: Home) -> Image | None:
    """The image of a complete manifest, or of a recipe that is built; None for all else."""
    if manifest is not None:
        return None if manifest.needs_preparation else manifest.image()
    if source.own is not None:
        return None
    return read_if_complete(home.path / "images" / f"{source.recipe}.yaml")


def _in_run(
    home: Home, settings: Settings, progress: Progress, activity: str, step: Callable[[RunContext], _Result]
) -> _Result:
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with TerminationSignals(), closing(fleet), home.explain_os_errors(), progress.activity(activity):
        return step(fleet.run_context())
