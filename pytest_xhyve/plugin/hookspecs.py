"""The hooks that a conftest.py or another plugin can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.machine import Machine


@pytest.hookspec
def pytest_xhyve_machine(machine: Machine, request: pytest.FixtureRequest) -> Machine | None:
    """Change the machine of a guest before it starts.

    If several ``conftest.py`` have this hook, pytest-xhyve calls the outermost first, and each one with the machine
    that the one before returned. A machine whose disks the hook changes boots, as no template fits it.

    Args:
        machine: the machine as it would start; it is frozen, so use `dataclasses.replace`.
        request: the request of the fixture that makes the guest.

    Returns:
        the machine to start, or None to leave it unchanged.
    """


@pytest.hookspec
def pytest_xhyve_guest_ready(guest: Guest, request: pytest.FixtureRequest) -> None:
    """Prepare a guest before the test gets it.

    Args:
        guest: a running guest, reachable over SSH.
        request: the request of the fixture that makes the guest.
    """


@pytest.hookspec
def pytest_xhyve_run_guest(guest: Guest, request: pytest.FixtureRequest) -> None:
    """Prepare the guest of `xhyve_run_guest`, once in the whole run: in the first process that needs it.

    Implement it in the ``conftest.py`` of the folder in which pytest is started: all processes of the run know it.

    Args:
        guest: a running guest, which nothing else uses yet; here, it can also be rebooted, or cut off from power.
        request: the request of the fixture.
    """
