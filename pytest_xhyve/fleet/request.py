"""Who asks for a guest, and what that allows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.fleet.slots import Slot
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import Cancelled
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.spec import GuestSpec

MachineHook = Callable[[Machine], Machine]
"""Gets the machine before it starts, and returns the machine that is started."""


class Request(Protocol):
    """A request for one guest; see `pytest_xhyve.fleet.fleet.Fleet.start`."""

    @property
    def spec(self) -> GuestSpec:
        """What the guest is made of."""

    @property
    def requested_by(self) -> str | None:
        """The test, class, module or session that the guest is for; None as long as no test has asked for it."""

    @property
    def may_build(self) -> bool:
        """Whether a template may be built for it, and whether its failures count against the template."""

    @property
    def hook(self) -> MachineHook | None:
        """Modifies the machine, if anything does."""

    def take_slot(self, admission: Admission, memory: int, stack: ExitStack) -> Slot:
        """A slot for a guest with *memory* bytes, held until *stack* is closed.

        Raises:
            NoFreeSlot: no slot became free.
            Cancelled: the guest is prewarmed, and starting it would take a slot or memory that a test may need.
        """

    def started_in(self, process: GuardedProcess) -> None:
        """The guest starts in *process*.

        Raises:
            Cancelled: the request is.
        """

    def check(self) -> None:
        """Raise if the request is cancelled.

        Raises:
            Cancelled: it is.
        """


class ForegroundRequest:
    """The request of a test, which waits for its guest.

    Args:
        spec: what the guest is made of.
        requested_by: the test, class, module or session that the guest is for.
        hook: modifies the machine before it starts.
    """

    may_build = True

    def __init__(self, spec: GuestSpec, requested_by: str = "", hook: MachineHook | None = None) -> None:
        self.spec = spec
        self.requested_by: str | None = requested_by
        self.hook = hook

    def take_slot(self, admission: Admission, memory: int, stack: ExitStack) -> Slot:
        del memory
        return admission.take(stack)

    def started_in(self, process: GuardedProcess) -> None:
        """A test's guest is ended by its owner alone."""

    def check(self) -> None:
        """A test that waits does not cancel."""


class PrewarmRequest:
    """The request for a guest that a test will probably ask for; another thread may cancel it.

    Args:
        spec: what the guest is made of.
    """

    may_build = False
    hook = None

    def __init__(self, spec: GuestSpec) -> None:
        self.spec = spec
        self.requested_by: str | None = None
        """Set when a test takes the guest."""
        self._lock = threading.Lock()
        self._process: GuardedProcess | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """Stop the start; a hypervisor that runs already is killed at once."""
        with self._lock:
            self.is_cancelled = True
            if self._process is not None:
                self._process.cancel()

    def take_slot(self, admission: Admission, memory: int, stack: ExitStack) -> Slot:
        return admission.take_spare(stack, memory)

    def started_in(self, process: GuardedProcess) -> None:
        with self._lock:
            self._process = process
        self.check()

    def check(self) -> None:
        if self.is_cancelled:
            raise Cancelled("the prewarmed guest is not needed any more")
