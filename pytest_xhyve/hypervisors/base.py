"""What a hypervisor is to the rest of the plugin.

A hypervisor turns a `Machine` into a running `VirtualMachine`. It knows nothing of pytest, images or SSH. What it
cannot do raises `NotSupported`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.model.machine import DiskFormat, Machine


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a TCP port of a guest answers, as seen from the host."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HypervisorInfo:
    """What a hypervisor tells of itself.

    Attributes:
        name: the word for it (``qemu``).
        version: as the program says.
        acceleration: ``kvm``, ``hvf`` or ``tcg``; what the guest's CPU is run by.
        reason: why it is this one, for a person.
        emulated: whether the guest's CPU is emulated, which makes everything many times slower.
    """

    name: str
    version: str
    acceleration: str
    reason: str
    emulated: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a machine from all others.

    Attributes:
        uuid: the SMBIOS UUID.
        mac: the Ethernet address, or None where it is known only once the machine runs.
    """

    uuid: UUID
    mac: str | None


class ExitReason(Enum):
    """Why a hypervisor ended, for a person."""

    POWERED_OFF = "the guest switched itself off"
    RESTARTED = "the guest restarted, and this hypervisor ends when its guest does: guest.reboot() starts it again"
    HALTED = "the guest stopped all its CPUs"
    TRIPLE_FAULT = "the guest's CPU met a triple fault"
    KILLED = "it was killed"
    FAILED = "it failed"


class VirtualMachine(Protocol):
    """A machine that was started; it may have ended since."""

    @property
    def mac(self) -> str | None:
        """The Ethernet address of the first network card, if that is known yet."""

    @property
    def console_log(self) -> Path:
        """The file to which every byte of the serial port goes."""

    def send_to_console(self, data: bytes) -> None:
        """Type *data* on the serial port."""

    def find_endpoint(self, port: int) -> Endpoint | None:
        """Where the guest's TCP *port* answers, if that is known yet."""

    def forward(self, port: int) -> Endpoint:
        """Make the guest's TCP *port* reachable from the host."""

    def count_accepted(self, port: int) -> int | None:
        """How many open connections to the guest's TCP *port* the guest itself has taken.

        User-mode networks accept a connection long before the guest does. None means that this one does not, so
        that every connection is the guest's own.
        """

    def exit_status(self) -> int | None:
        """How the hypervisor ended, as `subprocess` has it; None while it runs."""

    def wait_for_exit(self, timeout: float) -> int | None:
        """Wait up to *timeout* seconds for the end; how it ended, or None."""

    def exit_reason(self) -> ExitReason | None:
        """Why the hypervisor ended; None while it runs."""

    def explain_missing_address(self) -> str | None:
        """Why the guest has no address that can be found, with the cure; None when it has one, or nothing is known."""

    def explain_pause(self) -> str | None:
        """Why the hypervisor has stopped the guest's CPUs by itself, with the cure; None when it has not."""

    def output(self) -> str:
        """What the hypervisor said on its standard error."""

    def pause(self) -> None:
        """Stop all CPUs of the guest."""

    def resume(self) -> None:
        """Let the CPUs run again."""

    def press_power_button(self) -> None:
        """Press the machine's power button (ACPI); a guest that listens to it shuts down."""

    def kill(self) -> None:
        """Cut the power: end the hypervisor at once, and return when it is gone."""


class SnapshotMachine(VirtualMachine, Protocol):
    """A machine whose memory is in a file, and to whose second serial port we are connected."""

    @property
    def agent(self) -> socket.socket:
        """The host's end of the second serial port."""

    def restore(self) -> None:
        """Load what was saved, and let the machine run on, with a UUID of its own.

        Raises:
            HypervisorExited: it cannot be restored; the message has the hypervisor's own words.
        """

    def save(self, *, as_itself: bool = False) -> None:
        """Save the machine into its folder, and end it.

        Args:
            as_itself: only the machine itself will be restored from there, and none with another UUID; is faster.

        Raises:
            HypervisorExited: the hypervisor ended while it did.
            XhyveError: it cannot be saved, as for want of space.
        """


class Snapshotter(Protocol):
    """The part of a hypervisor that saves running machines and restores others from them."""

    def depends_on(self, machine: Machine) -> dict[str, str]:
        """What a saved *machine* depends on beside the machine itself: the program, the CPU that it runs on."""

    def start_recorded(
        self, machine: Machine, process: GuardedProcess, folder: Path, source: Path | None = None
    ) -> AbstractContextManager[SnapshotMachine]:
        """As `Hypervisor.running`, with the memory in a file in *folder*, into which the machine can be saved.

        Args:
            machine: what is started.
            process: its place in the guardian's care.
            folder: gets the memory, and what is saved.
            source: the folder of a saved machine that this one is to be restored from, in the place of being booted.
        """

    def start_restored(
        self, machine: Machine, process: GuardedProcess, folder: Path
    ) -> AbstractContextManager[SnapshotMachine]:
        """As `Hypervisor.running`, for a machine that waits to be restored from *folder*, which stays as it is.

        Its disk has to be as it was when *folder* was saved. It cannot be saved again.
        """


class Hypervisor(Protocol):
    """A program that runs guests."""

    @property
    def info(self) -> HypervisorInfo:
        """What it is, found out once."""

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        """The disk formats that it takes."""

    @property
    def snapshotter(self) -> Snapshotter | None:
        """What saves and restores its machines; None where it cannot."""

    def prove(self) -> Proof:
        """Whether it can run a guest here, found out by running something.

        Raises:
            HypervisorNotFound: the program cannot be executed, or is another one.
        """

    @property
    def max_guests(self) -> int:
        """How many guests it can run at once on one host."""

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        """The identity of a machine that is given the first of *candidates* that this hypervisor takes.

        Args:
            candidates: UUIDs that nothing else uses, in an order that is the same on every run.

        Raises:
            XhyveError: it takes none; the message says why.
        """

    def running(self, machine: Machine, process: GuardedProcess) -> AbstractContextManager[VirtualMachine]:
        """Start *machine* in *process*'s folder; at the end of the block nothing of it runs.

        Raises:
            HypervisorNotFound: the program cannot be executed.
            HypervisorExited: it ended at once; the message is its own.
        """
