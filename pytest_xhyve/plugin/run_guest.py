"""The fixture of the guest that all processes of a run share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_xhyve.plugin.stash import ITEM, SHARED_RUN
from pytest_xhyve.plugin.workers import worker_input

if TYPE_CHECKING:
    from pytest_xhyve.fleet.fleet import Fleet
    from pytest_xhyve.fleet.run_guest import Run
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.guest.run_guest import RunGuest
    from pytest_xhyve.model.spec import GuestSpec


@contextmanager
def running(request: pytest.FixtureRequest, fleet: Fleet, spec: GuestSpec, temp: Path) -> Iterator[RunGuest]:
    """The run's guest for the time of the block; the first process that needs it makes it.

    Args:
        request: the fixture's.
        fleet: this process's.
        spec: what the guest is made of.
        temp: pytest's folder for temporary files of this process.

    Raises:
        XhyveError: the guest cannot be made, or could not be made before.
    """
    from pytest_xhyve.fleet.request import ForegroundRequest  # noqa: PLC0415
    from pytest_xhyve.fleet.run_guest import run_guest  # noqa: PLC0415
    from pytest_xhyve.fleet.slots import RUN  # noqa: PLC0415
    from pytest_xhyve.plugin.machine_hook import machine_hook  # noqa: PLC0415
    from pytest_xhyve.plugin.reporting import REPORTER  # noqa: PLC0415
    from pytest_xhyve.plugin.reservation import reserve_slots  # noqa: PLC0415

    config = request.config
    item = config.stash[ITEM]

    def set_up(guest: Guest) -> None:
        item.ihook.pytest_xhyve_guest_ready(guest=guest, request=request)
        config.hook.pytest_xhyve_run_guest(guest=guest, request=request)

    run = _find_run(config, temp)
    if run.process is not None:
        config.stash[SHARED_RUN] = run.id
    with run_guest(fleet, ForegroundRequest(spec, RUN, machine_hook(item, request)), run, set_up) as guest:
        reserve_slots(item, fleet, run_guest_is_there=True)
        config.stash[REPORTER].track(guest, request, item)
        yield guest


def end_guests(run: str) -> None:
    """In the controller of pytest-xdist, end the guests of *run*; they would end with this process."""
    from pytest_xhyve.host.home import Home  # noqa: PLC0415
    from pytest_xhyve.host.runs import end_guests_of  # noqa: PLC0415

    end_guests_of(Home.of_user().folder("runs"), run)


def _find_run(config: pytest.Config, temp: Path) -> Run:
    from pytest_xhyve.fleet.run_guest import Run  # noqa: PLC0415

    worker = worker_input(config)
    if not worker:
        return Run("", temp / "xhyve-run", None, "")
    # The folder of a worker is in the controller's. The controller has started this process.
    run = str(worker["testrunuid"])
    return Run(run, temp.parent / f"xhyve-run-{run}", os.getppid(), str(worker["workerid"]))
