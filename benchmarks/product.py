"""The plugin itself: a guest by the fleet, as a test gets it."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from benchmarks.inside import read_stamps
from benchmarks.measure import Boot, Clock
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import Acceleration, RunStartMode

_SHARED = ("acceleration", "checked", "images", "keys")
"""What a cache folder learnt about this host, and its images."""


def boot(image: Image, accel: str, look: Callable[[Guest], None] = lambda _: None, *, start: str = "cold") -> Boot:
    """Start a guest of *image*, run the command, and take the guest away again.

    Each is the first of a fleet of its own: it pays for the guardian and for all that is found out once.

    Args:
        image: the image.
        accel: QEMU's acceleration.
        look: gets the guest between the two measurements.
        start: ``cold`` or ``warm``.
    """
    with fleet_of(accel, start) as fleet:
        return boot_in(fleet, image, look)


def boot_in(fleet: Fleet, image: Image, look: Callable[[Guest], None] = lambda _: None) -> Boot:
    """As `boot`, in a *fleet* that may have had other guests."""
    clock = Clock()
    guest = fleet.start(ForegroundRequest(GuestSpec(image=image.name)))
    started = clock.lap()
    output = guest.run("echo ready").stdout
    command = clock.lap()
    assert output == "ready\n", output
    look(guest)
    inside = read_stamps(guest.console.text)
    clock.lap()
    guest.remove()
    teardown = clock.lap()
    phases = {"checks": started - sum(guest.phases.values()), **guest.phases, "command": command}
    return Boot(started + command, teardown, phases, inside)


def own_cpu(fleet: Fleet) -> float:
    """The CPU seconds that this process and its guardian have used so far."""
    guardian, _ = fleet._run.get()
    return time.process_time() + sum(psutil.Process(guardian.pid).cpu_times()[:2])


@contextmanager
def new_home(*images: str) -> Iterator[Home]:
    """A cache folder for the block, with these *images* of the user's, and no template, layer or prepared disk."""
    user = Home.of_user()
    for name in images:
        build_image(name, user, print)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=user.path) as folder:
        home = Home(Path(folder))
        for name in _SHARED:
            (home.path / name).symlink_to(user.folder(name))
        yield home


def find_acceleration(accel: str) -> str:
    """What the plugin takes where *accel* was asked for."""
    with fleet_of(accel, "cold") as fleet:
        return fleet.hypervisor.info.acceleration


def qemu_arguments(guest: Guest) -> list[str]:
    """The command line of the guest's hypervisor, as it runs."""
    return psutil.Process(hypervisor_of(guest)).cmdline()


def hypervisor_of(guest: Guest) -> int:
    """The process id of the guest's hypervisor."""
    return int((folder_of(guest) / "hypervisor.pid").read_text())


def folder_of(guest: Guest) -> Path:
    """The folder with all of the guest's files."""
    return guest.console.path.parent


@contextmanager
def fleet_in(home: Home, start: RunStartMode = "auto") -> Iterator[Fleet]:
    """A fleet with the cache folder *home*."""
    with closing(Fleet(Settings(hypervisor="qemu", start=start), home)) as fleet:
        yield fleet


def start_ready(fleet: Fleet, image: str, **keys: Any) -> Guest:
    """A guest of *image* that has run a command."""
    guest = fleet.start(ForegroundRequest(GuestSpec(image=image, **keys)))
    assert guest.run("echo ready").stdout == "ready\n"
    return guest


@contextmanager
def fleet_of(accel: str, start: str, max_guests: int | None = None) -> Iterator[Fleet]:
    """A fleet of guests that start in one way, with nothing started yet."""
    # A test's first guest imports these while it boots; here they are imported before the clock starts for all.
    for module in ("paramiko", "pytest_xhyve.guest.ssh", "pytest_xhyve.guest.commands"):
        importlib.import_module(module)
    settings = Settings(
        hypervisor="qemu", accel=cast("Acceleration", accel), start=cast("RunStartMode", start), max_guests=max_guests
    )
    fleet = Fleet(settings, Home.of_user())
    try:
        yield fleet
    finally:
        fleet.close()
