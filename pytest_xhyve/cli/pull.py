"""Download images ahead of the first test, or newer ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import click

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.places import Places
from pytest_xhyve.images.pulled import Pulled
from pytest_xhyve.images.sources import find_source
from pytest_xhyve.model.settings import Settings


def pull_images(wanted: Sequence[str], settings: Settings, *, update: bool, progress: Progress) -> Iterator[Pulled]:
    """Pull the images *wanted*, one after the other.

    Args:
        wanted: names of distributions, or addresses with their checksum.
        settings: mirrors, and the project's list.
        update: whether a newer file takes the place of the one that was pulled before.
        progress: shows what takes long.

    Raises:
        click.UsageError: one of them is neither; none is pulled then.
        XhyveError: one cannot be pulled.
        SystemExit: a signal ended this process; what has come stays for the next try.
    """
    home = Home.of_user()
    places = Places.of(home, settings)
    addresses = []
    for text in wanted:
        address = find_source(text, places=places).address
        if address is None:
            raise click.UsageError(f"{text} is neither a distribution nor an address: there is nothing to pull")
        addresses.append(address)
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with TerminationSignals(), closing(fleet), home.explain_os_errors():
        for address in addresses:
            with progress.activity(f"pulling {address.name}"):
                yield fleet.images.pulled().get(address, update=update)
