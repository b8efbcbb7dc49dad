"""A machine that runs under xhyve: its console, its address, its exit."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence

from pytest_xhyve.host import leases
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.leases import Lease
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.hypervisors.keyboard import type_on_console
from pytest_xhyve.hypervisors.leased import LeasedMachine
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.hypervisors.xhyve.identity import UuidCache, UuidRecord
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited, NotSupported
from pytest_xhyve.model.machine import Machine

_APART_SECONDS = 0.1


class XhyveMachine(LeasedMachine):
    """A running machine; see `pytest_xhyve.hypervisors.base.VirtualMachine`.

    Args:
        machine: the machine's description.
        process: its process.
        build: the program that runs it.
        console: the host's end of its serial port; the guardian reads it, and this process writes to it.
        before: the leases from before the start.
        known: the cache for the Ethernet address.
    """

    def __init__(
        self,
        machine: Machine,
        process: GuardedProcess,
        build: Build,
        console: socket.socket,
        before: Sequence[Lease],
        known: UuidCache,
    ) -> None:
        super().__init__(machine.name, process, before)
        self._machine = machine
        self._build = build
        self._console = console
        self._known = known
        self._signalled = 0.0
        self._learnt: Callable[[], None] = lambda: None
        learnt = known.find(machine.uuid)
        self._mac = learnt.mac if learnt is not None else None

    @property
    def mac(self) -> str | None:
        return self._mac

    def on_lease(self, learnt: Callable[[], None]) -> None:
        """Call *learnt* when the machine's Ethernet address is known."""
        self._learnt = learnt

    def send_to_console(self, data: bytes) -> None:
        type_on_console(self._console.fileno(), data, self.name)

    def find_mac(self, records: Sequence[Lease]) -> str | None:
        if self._mac is None:
            self._learn(records)
        return self._mac

    def explain_missing_address(self) -> str | None:
        reason = super().explain_missing_address()
        if reason is not None and self._build.reports_mac:
            # The Ethernet address that belongs to the UUID may have changed.
            self._known.forget(self._machine.uuid)
        return reason

    def exit_reason(self) -> ExitReason | None:
        status = self.exit_status()
        return None if status is None else self._build.exit_reason(status)

    def screenshot(self) -> bytes:
        raise NotSupported(f"{self._build.name} shows no screen; use QEMU")

    def pause(self) -> None:
        self._signal_cpus(signal.SIGUSR1)

    def resume(self) -> None:
        self._signal_cpus(signal.SIGUSR2)

    def press_power_button(self) -> None:
        # Until the guest has enabled ACPI, this kills xhyve (pm.c).
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill(self._build.name)

    def _signal_cpus(self, number: signal.Signals) -> None:
        if not self._build.pauses:
            raise NotSupported(f"{self._build.name} cannot pause a guest; QEMU and hyperkit can")
        if self.exit_status() is not None:
            raise HypervisorExited(f"guest {self._machine.name} is not running; guest.start() starts it again")
        # If two signals are pending, either may be delivered first (signal(7)), and nothing reports the delivery.
        time.sleep(max(0.0, self._signalled + _APART_SECONDS - monotonic()))
        self._process.send_signal(number)
        self._signalled = monotonic()

    def _learn(self, records: Sequence[Lease]) -> None:
        """Find the Ethernet address of a machine whose build does not report it: the only new lease belongs to it.

        Until then, this process holds vmnet's lock, so that no other guest starts.
        """
        others = {leases.parse_mac(mac) for mac in self._known.macs()}
        before = {lease.mac for lease in self._before}
        # A renewed lease of another guest has another name; this guest's lease has its host name.
        new = {
            lease.mac
            for lease in leases.find_new(self._before, records)
            if lease.mac is not None and (lease.mac not in before or lease.name == self._machine.name)
        } - others
        if len(new) == 1:
            self._mac = ":".join(f"{byte:02x}" for byte in new.pop())
            self._known.save(self._machine.uuid, UuidRecord(mac=self._mac))
            self._learnt()
