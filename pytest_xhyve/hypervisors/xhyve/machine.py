"""A machine that runs under xhyve: its console, its address, its end."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from pytest_xhyve.host import leases
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.leases import Lease
from pytest_xhyve.hypervisors.base import Endpoint, ExitReason
from pytest_xhyve.hypervisors.guarded import GuardedMachine
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.hypervisors.xhyve.identity import UuidCache, UuidRecord
from pytest_xhyve.model.errors import HypervisorExited, NotSupported, XhyveError
from pytest_xhyve.model.machine import Machine

_SSH = 22
_CONNECT_SECONDS = 0.3
_TYPE_SECONDS = 10.0
_APART_SECONDS = 0.1


class XhyveMachine(GuardedMachine):
    """A running machine; see `pytest_xhyve.hypervisors.base.VirtualMachine`.

    Args:
        machine: what runs.
        process: whose process it is.
        build: which program runs it.
        console: our end of its serial port; the guardian reads what comes, and we write.
        before: the leases as they were when it was started.
        known: where the Ethernet address is kept, once it is learnt.
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
        self._signalled = 0.0
        self._learnt: Callable[[], None] = lambda: None
        learnt = known.find(machine.uuid)
        self._mac = learnt.mac if learnt is not None else None

    @property
    def mac(self) -> str | None:
        return self._mac

    def on_lease(self, learnt: Callable[[], None]) -> None:
        """Have *learnt* called when the machine's Ethernet address is known."""
        self._learnt = learnt

    def send_to_console(self, data: bytes) -> None:
        try:
            self._console.settimeout(_TYPE_SECONDS)
            self._console.sendall(data)
        except OSError as error:
            raise HypervisorExited(f"nobody reads the serial port of guest {self._machine.name}: {error}") from error

    def find_endpoint(self, port: int) -> Endpoint | None:
        with self._lock:
            address = self._find_address()
        return None if address is None else Endpoint(address, port)

    def forward(self, port: int) -> Endpoint:
        if not 0 < port < 1 << 16:
            raise XhyveError(f"{port} is no TCP port")
        endpoint = self.find_endpoint(port)
        if endpoint is None:
            raise XhyveError(self.explain_missing_address() or f"guest {self._machine.name} has no address yet")
        return endpoint

    def count_accepted(self, port: int) -> int | None:  # noqa: ARG002
        return None

    def explain_missing_address(self) -> str | None:
        if self.find_endpoint(_SSH) is not None:
            return None
        if self._build.tells_mac:
            # It may be that the address that goes with the UUID is another one now.
            self._known.forget(self._machine.uuid)
        return leases.explain_no_lease(self._before)

    def exit_reason(self) -> ExitReason | None:
        status = self.exit_status()
        return None if status is None else self._build.exit_reason(status)

    def pause(self) -> None:
        self._signal_cpus(signal.SIGUSR1)

    def resume(self) -> None:
        self._signal_cpus(signal.SIGUSR2)

    def press_power_button(self) -> None:
        # Before the guest has switched ACPI on, this kills (pm.c).
        self._ward.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._ward.kill(self._build.name)

    def _signal_cpus(self, number: signal.Signals) -> None:
        if not self._build.pauses:
            raise NotSupported(f"{self._build.name} cannot stop a guest's CPUs; QEMU and hyperkit can")
        if self.exit_status() is not None:
            raise HypervisorExited(f"guest {self._machine.name} is not running; guest.start() starts it again")
        # Of two that wait, either may be delivered first (signal(7)), and nothing tells that one was taken.
        time.sleep(max(0.0, self._signalled + _APART_SECONDS - time.monotonic()))
        self._ward.send_signal(number)
        self._signalled = time.monotonic()

    def _find_address(self) -> str | None:
        records = leases.read_leases()
        if self._mac is None:
            self._learn(records)
        if self._mac is None:
            return None
        addresses = leases.find_addresses(leases.parse_mac(self._mac), records)
        if len(addresses) < 2 or self._answers in addresses:
            return self._answers if self._answers in addresses else next(iter(addresses), None)
        # Records of earlier boots may be among them: only what answers on SSH counts.
        self._answers = next(filter(_answers_on_ssh, addresses), None)
        return self._answers

    def _learn(self, records: Sequence[Lease]) -> None:
        """Find the Ethernet address of a machine whose build does not tell it: the one new lease is its own.

        vmnet's set-up is kept from others until then.
        """
        others = {leases.parse_mac(mac) for mac in self._known.macs()}
        before = {lease.mac for lease in self._before}
        # Another's lease that was only renewed has another name: ours is the host name that we gave.
        new = {
            lease.mac
            for lease in leases.find_new(self._before, records)
            if lease.mac is not None and (lease.mac not in before or lease.name == self._machine.name)
        } - others
        if len(new) == 1:
            self._mac = ":".join(f"{byte:02x}" for byte in new.pop())
            self._known.keep(self._machine.uuid, UuidRecord(mac=self._mac))
            self._learnt()


def _answers_on_ssh(address: str) -> bool:
    try:
        with socket.create_connection((address, _SSH), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
