"""How a guest's machine starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.machine import Machine

AnyMachine = TypeVar("AnyMachine", bound=VirtualMachine)


def _do_nothing(_: Any) -> None:
    """A guest that boots needs no preparation."""


@dataclass(frozen=True, slots=True)
class Start(Generic[AnyMachine]):
    """One method to start a machine; it can be used again after each power-off.

    Attributes:
        phase: ``boot`` from power-on, or ``restore`` from a saved state; also the name of the phase in `Guest.phases`.
        running: a context manager that starts the machine; at the end of the block, the machine has stopped.
        make_ready: called once the hypervisor runs, before SSH connects.
        agent: for a machine with a second serial port, the state of the agent at that port, as plain data; empty if
            there is no agent yet. None for a machine without such a port.
    """

    phase: Literal["boot", "restore"]
    running: Callable[[], AbstractContextManager[AnyMachine]]
    make_ready: Callable[[AnyMachine], None] = _do_nothing
    agent: Mapping[str, Any] | None = None

    @staticmethod
    def boot(instance: Instance, machine: Machine) -> Start[VirtualMachine]:
        """Start *machine* from power-on."""
        return Start("boot", lambda: instance.hypervisor.running(machine, instance.process))

    def then(self, action: Callable[[AnyMachine], None]) -> Start[AnyMachine]:
        """This start, which also calls *action* once the machine is ready, before SSH connects."""

        def make_ready(vm: AnyMachine) -> None:
            self.make_ready(vm)
            action(vm)

        return replace(self, make_ready=make_ready)


BootMachine = Callable[[Machine], Start[Any]]
"""Makes the start that boots a machine; the disks of a guest's machine may change while it is off."""
