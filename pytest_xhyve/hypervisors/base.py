"""The interface of a hypervisor.

A hypervisor turns a `Machine` into a running `VirtualMachine`. It does not know pytest, images or SSH. If it cannot do
something, the call raises `NotSupported`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol
from uuid import UUID

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.block import BlockLayer
from pytest_xhyve.model.errors import HypervisorNotFound
from pytest_xhyve.model.machine import DiskFormat, Machine
from pytest_xhyve.model.values import PortProtocol


class OtherProgram(HypervisorNotFound):
    """The program is not the hypervisor that the driver is for."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address on the host's side of a guest's TCP port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HypervisorInfo:
    """Facts about a hypervisor.

    Attributes:
        name: its name (``qemu``).
        version: as the program prints it.
        acceleration: ``kvm``, ``hvf`` or ``tcg``: what runs the guest's CPU.
        reason: why this acceleration was selected, for messages.
        emulated: whether the guest's CPU is emulated, which makes everything many times slower.
    """

    name: str
    version: str
    acceleration: str
    reason: str
    emulated: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a machine, different from all others.

    Attributes:
        uuid: the SMBIOS UUID.
        mac: the Ethernet address, or None if it is known only once the machine runs.
    """

    uuid: UUID
    mac: str | None


class ExitReason(Enum):
    """Why a hypervisor exited, for messages."""

    POWERED_OFF = "the guest powered off"
    RESTARTED = "the guest restarted; this hypervisor exits on a restart, so restart the guest with guest.reboot()"
    HALTED = "the guest halted all its CPUs"
    TRIPLE_FAULT = "the guest's CPU had a triple fault"
    KILLED = "it was killed"
    FAILED = "it failed"


class VirtualMachine(Protocol):
    """A machine that was started; it may have stopped since."""

    @property
    def mac(self) -> str | None:
        """The Ethernet address of the first network card, or None if it is not known yet."""

    @property
    def console_log(self) -> Path:
        """The file with the output of the serial port."""

    def send_to_console(self, data: bytes) -> None:
        """Type *data* on the serial port."""

    def find_endpoint(self, port: int) -> Endpoint | None:
        """The host's address of the guest's TCP *port*, or None if it is not known yet."""

    def forward(self, port: int, protocol: PortProtocol = "tcp") -> Endpoint:
        """Make the guest's *port* reachable from the host."""

    def count_accepted(self, port: int) -> int | None:
        """The number of open connections to the guest's TCP *port* that the guest itself has accepted.

        A user-mode network accepts a connection long before the guest does. None means that this network does not, so
        that the guest itself accepts every connection.
        """

    def exit_status(self) -> int | None:
        """The hypervisor's exit code as in `subprocess`; None while it runs."""

    def wait_for_exit(self, timeout: float) -> int | None:
        """Wait up to *timeout* seconds until the hypervisor exits; return its exit code, or None."""

    def exit_reason(self) -> ExitReason | None:
        """Why the hypervisor exited; None while it runs."""

    def explain_missing_address(self) -> str | None:
        """Why the guest has no known address, and the fix; None if it has one, or if the cause is unknown."""

    def explain_pause(self) -> str | None:
        """Why the hypervisor has paused the guest by itself, and the fix; None if it has not."""

    def output(self) -> str:
        """The hypervisor's standard output and standard error."""

    @property
    def block(self) -> BlockLayer | None:
        """Changes the machine's disks while it runs; None if this hypervisor cannot do that."""

    def screenshot(self) -> bytes:
        """The contents of the screen, as a PNG file; only for a machine with a graphics card."""

    def pause(self) -> None:
        """Pause all CPUs of the guest."""

    def resume(self) -> None:
        """Resume the CPUs."""

    @property
    def lan_ends(self) -> Sequence[CableEnd]:
        """The host's ends of the cables of the cards for LANs.

        The caller closes those that it uses. The machine closes the others when it ends.
        """

    def set_lan_link(self, number: int, *, up: bool) -> None:
        """Plug the cable into the card *number* for LANs, or pull it out; the guest sees the carrier change.

        Raises:
            NotSupported: this hypervisor cannot do that.
        """

    def is_lan_cable_pulled(self, number: int) -> bool:
        """Whether `set_lan_link` has pulled the cable out of the card *number*, and not plugged it in again."""

    def press_power_button(self) -> None:
        """Press the machine's power button (ACPI); a guest that handles it shuts down."""

    def is_paused(self) -> bool:
        """Whether the CPUs are known to be paused."""

    @property
    def has_agent(self) -> bool:
        """Whether the machine has a second serial port."""

    def save_state(self, file: Path) -> None:
        """Write the state of the paused machine's memory and devices to *file*; `resume` lets the machine run on.

        Raises:
            NotSupported: this hypervisor cannot do that.
            XhyveError: the state cannot be saved.
        """

    def load_state(self, file: Path) -> None:
        """Load the state in *file* into a machine of `Snapshotter.start_waiting`; it stays paused until `resume`.

        Raises:
            HypervisorExited: the state cannot be loaded.
        """

    def serve_debugger(self) -> Path:
        """Let gdb attach to the machine.

        Returns:
            the socket that gdb connects to (``target remote``), in the machine's folder.

        Raises:
            NotSupported: this hypervisor cannot do that.
        """

    def kill(self) -> None:
        """Cut the power: kill the hypervisor, and wait until it has ended."""


class SnapshotMachine(VirtualMachine, Protocol):
    """A machine whose memory is in a file, and whose second serial port is connected to this process."""

    @property
    def agent(self) -> socket.socket:
        """The host's end of the second serial port."""

    def restore(self) -> None:
        """Load the saved state, give the machine its own UUID, and let it run.

        Raises:
            HypervisorExited: the machine cannot be restored; the message contains the hypervisor's output.
        """

    def save(self, *, as_itself: bool = False) -> None:
        """Save the machine into its folder, and stop it.

        Args:
            as_itself: whether the state will be restored only with the same UUID; saving is then faster.

        Raises:
            HypervisorExited: the hypervisor exited or failed while it saved the machine.
            XhyveError: the hypervisor did not save the machine in time.
        """


class Snapshotter(Protocol):
    """The part of a hypervisor that saves running machines and restores machines from a saved state."""

    def depends_on(self, machine: Machine) -> dict[str, str]:
        """What the saved state of *machine* depends on beside the machine: the program and the host's CPU.

        No value depends on where a file is, or on its time stamps. Messages show the keys, and the values of some:
        `pytest_xhyve.templates.differences.find_difference`.
        """

    def start_recorded(
        self, machine: Machine, process: GuardedProcess, folder: Path, source: Path | None = None
    ) -> AbstractContextManager[SnapshotMachine]:
        """Like `Hypervisor.running`, but the memory is a file in *folder*, and the machine can be saved there.

        Args:
            machine: the machine to start.
            process: the guardian's process for it.
            folder: gets the memory and the saved state.
            source: the folder of a saved state to restore the machine from; None boots it.
        """

    def start_restored(
        self, machine: Machine, process: GuardedProcess, folder: Path
    ) -> AbstractContextManager[SnapshotMachine]:
        """Like `Hypervisor.running`, but the machine waits until `SnapshotMachine.restore` loads it from *folder*.

        Nothing in *folder* changes. The machine's disks must be in the state in which they were when *folder* was
        saved. The machine cannot be saved again.
        """

    def start_waiting(
        self, machine: Machine, process: GuardedProcess, *, has_agent: bool
    ) -> AbstractContextManager[VirtualMachine]:
        """Like `Hypervisor.running`, but the machine waits for `VirtualMachine.load_state`.

        Args:
            machine: the machine; its disks must be in the state in which they were when the state was saved.
            process: the guardian's process for it.
            has_agent: whether the saved machine had a second serial port.
        """


class Hypervisor(Protocol):
    """A program that runs guests."""

    @property
    def info(self) -> HypervisorInfo:
        """Facts about this hypervisor; they are found out once."""

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        """The disk formats that it supports."""

    @property
    def snapshotter(self) -> Snapshotter | None:
        """Saves and restores its machines; None if this hypervisor cannot do that."""

    @property
    def changes_disks(self) -> bool:
        """Whether its machines have a `VirtualMachine.block`."""

    @property
    def has_lans(self) -> bool:
        """Whether its machines can have cards for LANs (`Machine.lan_macs`)."""

    @property
    def host_loopback(self) -> str | None:
        """The address at which its guests reach the host's loopback interface; None if they cannot."""

    @property
    def has_common_network(self) -> bool:
        """Whether all its guests are on one network, where each has an address of its own and reaches the others."""

    def prove(self) -> Proof:
        """Whether the hypervisor can run a guest on this host; it runs something to find out.

        Raises:
            HypervisorNotFound: the program cannot be executed, or is not this hypervisor.
        """

    @property
    def max_guests(self) -> int:
        """How many guests it can run at the same time on one host."""

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        """The identity with the first of *candidates* that this hypervisor accepts.

        Args:
            candidates: UUIDs that nothing else uses; their order must be the same in every run.

        Raises:
            XhyveError: it accepts none of them; the message states the reason.
        """

    def running(self, machine: Machine, process: GuardedProcess) -> AbstractContextManager[VirtualMachine]:
        """Start *machine* in the folder of *process*; at the end of the block, the machine has stopped.

        Raises:
            HypervisorNotFound: the program cannot be executed.
            HypervisorExited: the hypervisor exited at once; the message contains its output.
        """
