"""A machine that runs under xhyve: its console, its address, its exit."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from pytest_xhyve.host import arp, leases
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.leases import Lease
from pytest_xhyve.hypervisors.base import Endpoint, ExitReason
from pytest_xhyve.hypervisors.guarded import GuardedMachine
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.hypervisors.xhyve.identity import UuidCache, UuidRecord
from pytest_xhyve.hypervisors.xhyve.reachability import Reachability
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited, NotSupported, XhyveError
from pytest_xhyve.model.machine import SSH_PORT, Machine
from pytest_xhyve.model.values import PortProtocol

_CONNECT_SECONDS = 0.3
_TYPE_SECONDS = 10.0
_APART_SECONDS = 0.1
_ARP_SECONDS = 1.0


class XhyveMachine(GuardedMachine):
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
        super().__init__(process)
        self._machine = machine
        self._build = build
        self._console = console
        self._before = before
        self._known = known
        self._lock = threading.Lock()
        self._answers: str | None = None
        self._reachability = Reachability(machine.name)
        self._asked_arp = float("-inf")
        self._in_arp: list[str] = []
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
        try:
            self._console.settimeout(_TYPE_SECONDS)
            self._console.sendall(data)
        except TimeoutError as error:
            raise XhyveError(
                f"guest {self._machine.name} does not take what is typed on its console: nothing there reads it"
            ) from error
        except OSError as error:
            raise HypervisorExited(f"cannot write to the serial port of guest {self._machine.name}: {error}") from error

    def find_endpoint(self, port: int) -> Endpoint | None:
        with self._lock:
            records = leases.read_leases()
            address = self._find_address(records)
            if any(lease.address == address for lease in leases.find_new(self._before, records)):
                self._reachability.check(str(address))
        return None if address is None else Endpoint(address, port)

    def forward(self, port: int, protocol: PortProtocol = "tcp") -> Endpoint:  # noqa: ARG002
        # The guest has an address of its own, with all its ports.
        endpoint = self.find_endpoint(port)
        if endpoint is None:
            raise XhyveError(self.explain_missing_address() or f"guest {self._machine.name} has no address yet")
        return endpoint

    def count_accepted(self, port: int) -> int | None:  # noqa: ARG002
        return None

    def explain_missing_address(self) -> str | None:
        if self.find_endpoint(SSH_PORT) is not None:
            return None
        if self._build.reports_mac:
            # The Ethernet address that belongs to the UUID may have changed.
            self._known.forget(self._machine.uuid)
        return leases.explain_no_lease(self._before)

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

    def _find_address(self, records: Sequence[Lease]) -> str | None:
        if self._mac is None:
            self._learn(records)
        if self._mac is None:
            return None
        mac = leases.parse_mac(self._mac)
        addresses = leases.find_addresses(mac, records) or self._ask_arp(mac, records)
        if len(addresses) < 2 or self._answers in addresses:
            return self._answers if self._answers in addresses else next(iter(addresses), None)
        # Some addresses may be from earlier boots: only one that answers on the SSH port counts.
        self._answers = next(filter(_answers_on_ssh, addresses), None)
        return self._answers

    def _ask_arp(self, mac: bytes, records: Sequence[Lease]) -> list[str]:
        """The addresses that the host knows for *mac*, and that some guest leased under a DUID."""
        nameless = {lease.address for lease in records if lease.mac is None and lease.is_live(time.time())}
        if not nameless:
            return []
        if monotonic() >= self._asked_arp + _ARP_SECONDS:
            self._in_arp = arp.find_addresses(mac, arp.read_table())
            self._asked_arp = monotonic()
        return [address for address in self._in_arp if address in nameless]

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


def _answers_on_ssh(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
