"""The plugin itself: a guest by the fleet, as a test gets it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.inside import read_stamps
from benchmarks.measure import Boot, Clock
from pytest_xhyve.fleet import Fleet
from pytest_xhyve.guest import Guest
from pytest_xhyve.home import Home
from pytest_xhyve.images.manifest import Image
from pytest_xhyve.settings import Settings
from pytest_xhyve.spec import GuestSpec


def boot(image: Image, accel: str, look: Callable[[Guest], None] = lambda _: None) -> Boot:
    """Boot *image*, run the command, and take the guest away again.

    Each boot is the first of a fleet of its own: it pays for the guardian and for all that is found out once.

    Args:
        image: the image.
        accel: QEMU's acceleration.
        look: gets the guest between the two measurements.
    """
    with _fleet(accel) as fleet:
        clock = Clock()
        guest = fleet.start_guest(GuestSpec(image=image.name))
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


def find_acceleration(accel: str) -> str:
    """What the plugin takes where *accel* was asked for."""
    with _fleet(accel) as fleet:
        return fleet.hypervisor.facts.acceleration


def qemu_arguments(guest: Guest) -> list[str]:
    """The command line of the guest's hypervisor, as it runs."""
    folder: Path = guest.console.path.parent
    return psutil.Process(int((folder / "hypervisor.pid").read_text())).cmdline()


@contextmanager
def _fleet(accel: str) -> Iterator[Fleet]:
    # A test's first guest imports these while it boots; here they are imported before the clock starts for all.
    for module in ("paramiko", "pytest_xhyve.ssh", "pytest_xhyve.remote"):
        importlib.import_module(module)
    fleet = Fleet(Settings(accel=accel), Home.of_user(), print)
    try:
        yield fleet
    finally:
        fleet.close()
