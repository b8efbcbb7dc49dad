"""Prepare a disk for guests ahead of the first test."""

from __future__ import annotations

from contextlib import closing

from pytest_xhyve.cli.password import with_password
from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.catalog import read_stated
from pytest_xhyve.images.files import check_files
from pytest_xhyve.images.own_login import OwnLogin
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings


def import_disk(disk: str, name: str | None, settings: Settings, *, progress: Progress) -> Image:
    """Prepare the disk at the path *disk*, or the one of the manifest at that path; return the image.

    Args:
        disk: the path.
        name: the image's name; None for the manifest's, or the file's.
        settings: for the guests that prepare it.
        progress: shows what takes long.

    Raises:
        XhyveError: the file is not a disk, or cannot become an image.
        SystemExit: a signal ended this process; the guests are removed.
    """
    home = Home.of_user()
    places = Places.of(home, settings)
    address = find_source(disk, places=places).address
    if address is not None:
        with closing(Fleet(settings, home, ProgressEvents(progress))) as fleet, TerminationSignals():
            fleet.images.pulled().get(address)
    manifest = read_stated(disk, OwnLogin.of(settings), places)
    if manifest is None:
        raise ConfigurationError(f"{disk} is a recipe; `pytest-xhyve build {disk}` builds it")
    settings = with_password(settings, manifest)
    manifest = OwnLogin.of(settings).applied_to(manifest)
    if name is not None:
        manifest = manifest.with_values(name=name)
    if not manifest.needs_preparation:
        image = manifest.image()
        check_files(image)
        return image
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with TerminationSignals(), closing(fleet), home.explain_os_errors(), progress.activity(f"preparing {disk}"):
        return fleet.images.prepare(manifest)
