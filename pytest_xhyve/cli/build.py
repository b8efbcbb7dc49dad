"""Build images ahead of the first test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import click

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.recipe import find_catalog_name, recipe_names
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.architecture import ARCHITECTURES, find_architecture
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.values import suggest


def build_images(
    names: Sequence[str], settings: Settings, *, architecture: str | None, force: bool, progress: Progress
) -> Iterator[Image]:
    """Build the images *names*, one after the other.

    Args:
        names: names of the catalog, and names or paths of recipes of the project.
        settings: for the guests in which recipes are built.
        architecture: a word for the architecture of all of them; None for what the names state.
        force: build an image of the catalog even if it is up to date.
        progress: shows what takes long.

    Raises:
        click.UsageError: one of them is not found; none is built then.
        XhyveError: one cannot be built.
        SystemExit: a signal ended this process; the guests are removed.
    """
    home = Home.of_user()
    places = Places.of(home, settings)
    if architecture is not None:
        names = [_of_architecture(name, architecture) for name in names]
    own = [name for name in names if find_catalog_name(name) is None]
    for name in own:
        try:
            source = find_source(name, places=places)
        except ConfigurationError as error:
            known = (*recipe_names(), *places.recipe_names())
            if "/" in name or name in known:
                raise
            raise click.UsageError(
                f"image {name!r} not found in the catalog{suggest(name, known)} (names: {', '.join(known)})"
            ) from error
        if source.own is None:
            raise click.UsageError(f"{name} is not a recipe; `pytest-xhyve import {name}` prepares a disk")
    for name in names:
        with progress.activity(f"building {name}"):
            if name not in own:
                yield build_image(find_catalog_name(name) or name, home, progress.line, force=force)
                continue
            fleet = Fleet(settings, home, ProgressEvents(progress))
            with TerminationSignals(), closing(fleet), home.explain_os_errors():
                yield fleet.catalog.find(name)


def _of_architecture(name: str, word: str) -> str:
    """The name of the catalog's image *name* for the architecture *word*."""
    if find_architecture(word) is None:
        known = [known for each in ARCHITECTURES.values() for known in (each.name, each.debian)]
        raise click.UsageError(f"--arch: {word!r} is not one of {', '.join(known)}{suggest(word, known)}")
    found = find_catalog_name(f"{name}-{word}")
    if found is None:
        raise click.UsageError(f"--arch: {name!r} is not an image of the catalog ({', '.join(recipe_names())})")
    return found
