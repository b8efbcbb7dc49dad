"""Install a system from an installer's disc."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from pytest_xhyve.cli.progress import Progress
from pytest_xhyve.cli.progress_events import ProgressEvents
from pytest_xhyve.cli.ssh_client import TerminationSignals
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.values import parse_disk_size
from pytest_xhyve.preparation.install import InstallOptions, install

_UNITS = {"s": 1, "m": 60, "h": 3600}


def install_system(
    iso: str,
    name: str,
    settings: Settings,
    *,
    answers: str | None,
    packages: Sequence[str],
    size: str,
    limit: str,
    progress: Progress,
) -> Path:
    """Install the system of the disc *iso* as the image *name*; return the manifest of its disk.

    Args:
        iso: the path of the disc.
        name: the image's name.
        settings: the machine's hypervisor, memory and CPUs, and the factor for the limits.
        answers: the path of the user's own answers, or None.
        packages: packages to install.
        size: the size of the disk.
        limit: the limit of the installation, with its unit: ``s``, ``m`` or ``h``.
        progress: shows what takes long.

    Raises:
        click.BadParameter: *limit* is not a time.
        XhyveError: the installation failed.
        SystemExit: a signal ended this process; nothing of the installation is kept.
    """
    match = re.fullmatch(r"([0-9]{1,6})([smh])", limit)
    if match is None:
        raise click.BadParameter(f"{limit!r} is not a time; write 90m or 2h", param_hint="'--limit'")
    seconds = int(match[1]) * _UNITS[match[2]]
    options = InstallOptions(
        size=parse_disk_size(size),
        memory=settings.memory or InstallOptions().memory,
        cpus=settings.cpus or InstallOptions().cpus,
        answers=None if answers is None else Path(answers).read_bytes(),
        packages=tuple(packages),
        limit=seconds * settings.timeout_factor,
        silence=InstallOptions().silence * settings.timeout_factor,
        question=InstallOptions().question * settings.timeout_factor,
    )
    home = Home.of_user()
    fleet = Fleet(settings, home, ProgressEvents(progress))
    with TerminationSignals(), closing(fleet), home.explain_os_errors(), progress.activity(f"installing {name}"):
        return install(Path(iso), name, options, fleet.run_context())
