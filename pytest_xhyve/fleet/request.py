"""Requests for a guest: a test waits for its guest, a prewarmed one only takes what is spare."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.slots import Slot
from pytest_xhyve.guest.lans import NO_LANS, GuestLans
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import Cancelled
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.spec import GuestSpec

MachineHook = Callable[[Machine], Machine]
"""Gets the machine before it starts, and returns the one to start."""


class Request(Protocol):
    """A request for one guest; see `pytest_xhyve.fleet.fleet.Fleet.start`."""

    @property
    def spec(self) -> GuestSpec:
        """What the guest is made of."""

    @property
    def requested_by(self) -> str | None:
        """The test, class, module or session that the guest is for; None until a test has asked for it."""

    @property
    def may_build(self) -> bool:
        """Whether a template may be built for it, and whether its failures are recorded against the template."""

    @property
    def hook(self) -> MachineHook | None:
        """Modifies the machine before it starts; None if no conftest.py has the hook."""

    @property
    def lans(self) -> GuestLans:
        """The LANs that the guest is on."""

    def acquire_slot(self, admission: Admission, weight: int, stack: ExitStack) -> Slot:
        """Take a slot for a guest that costs *weight* bytes; it counts as this process's own until *stack* is closed.

        Raises:
            NoFreeSlot: no slot became free in time.
            Cancelled: the guest is prewarmed, and starting it would take a slot or memory that a test may need.
        """

    def started_in(self, process: GuardedProcess) -> None:
        """Called with the *process* in which the guest is about to start, so that `cancel` can end it.

        Raises:
            Cancelled: the request was cancelled.
        """

    def check(self) -> None:
        """Raise `Cancelled` if the request was cancelled.

        Raises:
            Cancelled: the request was cancelled.
        """


class _Cancellable:
    """The part of a request by which another thread cancels it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: GuardedProcess | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """Cancel the start; if its hypervisor runs already, it is killed at once."""
        with self._lock:
            self.is_cancelled = True
            if self._process is not None:
                self._process.cancel()

    def started_in(self, process: GuardedProcess) -> None:
        """See `Request.started_in`."""
        with self._lock:
            self._process = process
        self.check()

    def check(self) -> None:
        """See `Request.check`."""
        if self.is_cancelled:
            raise Cancelled("the guest is no longer needed")


class ForegroundRequest(_Cancellable):
    """The request of a test, which waits for its guest.

    Args:
        spec: what the guest is made of.
        requested_by: the test, class, module or session that the guest is for.
        hook: modifies the machine before it starts; None to leave it as it is.
        lans: the LANs that the guest is on.
    """

    may_build = True

    def __init__(
        self, spec: GuestSpec, requested_by: str = "", hook: MachineHook | None = None, lans: GuestLans = NO_LANS
    ) -> None:
        super().__init__()
        self.spec = spec
        self.requested_by: str | None = requested_by
        self.hook = hook
        self.lans = lans

    def acquire_slot(self, admission: Admission, weight: int, stack: ExitStack) -> Slot:
        return admission.acquire(stack, weight, self.requested_by or "")


class PrewarmRequest(_Cancellable):
    """A request for a guest that a test is expected to ask for; another thread may cancel it.

    Args:
        spec: what the guest is made of.
    """

    may_build = False
    hook = None
    lans = NO_LANS

    def __init__(self, spec: GuestSpec) -> None:
        super().__init__()
        self.spec = spec
        self.requested_by: str | None = None
        """Set when a test takes the guest."""

    def acquire_slot(self, admission: Admission, weight: int, stack: ExitStack) -> Slot:
        return admission.acquire_spare(stack, weight)
