"""The ways in which a guest's machine starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.machine import Machine

AnyMachine = TypeVar("AnyMachine", bound=VirtualMachine)


def _nothing_to_do(_: Any) -> None:
    """A guest that boots makes itself ready."""


@dataclass(frozen=True, slots=True)
class Start(Generic[AnyMachine]):
    """One way to start a machine; it can be used again after each power-off.

    Attributes:
        phase: ``boot`` from power-on, ``restore`` from a saved state; the name of the phase in `Guest.phases`.
        running: starts the machine, for the time of a block.
        make_ready: what remains to be done once the hypervisor runs, before SSH connects.
    """

    phase: Literal["boot", "restore"]
    running: Callable[[], AbstractContextManager[AnyMachine]]
    make_ready: Callable[[AnyMachine], None] = _nothing_to_do

    @staticmethod
    def boot(instance: Instance, machine: Machine) -> Start[VirtualMachine]:
        """Start *machine* from power-on."""
        return Start("boot", lambda: instance.hypervisor.running(machine, instance.process))
