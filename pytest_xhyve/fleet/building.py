"""The guests in which recipes are built."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.request import Request
from pytest_xhyve.fleet.slots import Slot
from pytest_xhyve.guest.lans import NO_LANS
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import Cancelled
from pytest_xhyve.model.spec import GuestSpec

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


def start_for_build(start: Callable[[Request], Guest], spec: GuestSpec) -> Guest:
    """Start a guest for a build: restored from a template if there is one, or else booted.

    Args:
        start: starts the guest of a request.
        spec: what the guest is made of.
    """
    try:
        return start(BuildRequest(spec))
    except Cancelled:
        # There is no template.
        return start(BuildRequest(replace(spec, start="cold")))


class BuildRequest:
    """The request of a build, for a guest that no test uses.

    It takes no slot: a process that waits for a slot while it builds could wait for one that waits for the build. Its
    UUID is random.

    Args:
        spec: what the guest is made of.
    """

    # The images below a recipe may be those of no test, and a template takes longer to make than a boot.
    may_build = False
    hook = None
    lans = NO_LANS
    requested_by: str | None = None

    def __init__(self, spec: GuestSpec) -> None:
        self.spec = spec

    def acquire_slot(self, admission: Admission, weight: int, stack: ExitStack) -> Slot:
        """A slot that counts for no limit."""
        del admission, weight, stack
        # Its owner closes the descriptor, as that of any slot.
        return Slot(0, f"build:{uuid4()}", os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def started_in(self, process: GuardedProcess) -> None:
        """Do nothing: a build is never cancelled."""

    def check(self) -> None:
        """Do nothing: a build is never cancelled."""
