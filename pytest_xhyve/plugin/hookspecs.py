"""The hooks that the plugin offers to a conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.machine import Machine


@pytest.hookspec(firstresult=True)
def pytest_xhyve_machine(machine: Machine, request: pytest.FixtureRequest) -> Machine | None:
    """Change what a guest is made of, before it starts.

    Args:
        machine: what would be started; frozen, so use `dataclasses.replace`.
        request: of the fixture that makes the guest.

    Returns:
        the machine to start, or None to leave it as it is. The first that is not None counts.
    """


@pytest.hookspec
def pytest_xhyve_guest_ready(guest: Guest, request: pytest.FixtureRequest) -> None:
    """Do something with a guest that answers, before the test gets it.

    Args:
        guest: booted and reachable.
        request: of the fixture that makes the guest.
    """
