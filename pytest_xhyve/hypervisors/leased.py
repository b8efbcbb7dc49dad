"""What hypervisors share whose machines have addresses of their own: macOS's DHCP server gives them, by a lease."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.host import arp, leases
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.leases import Lease
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.hypervisors.guarded import GuardedMachine
from pytest_xhyve.hypervisors.reachability import Reachability
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import SSH_PORT, DiskFormat
from pytest_xhyve.model.values import PortProtocol

_CONNECT_SECONDS = 0.3
_ARP_SECONDS = 1.0


class LeasedHypervisor:
    """The part of a `pytest_xhyve.hypervisors.base.Hypervisor` that programs for Macs share: they only run machines.

    Args:
        executable: the path of the program.
        cache: a folder for facts about this host.
    """

    def __init__(self, executable: str, cache: Path) -> None:
        self._executable = executable
        self._cache = cache

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        return frozenset({"raw"})

    @property
    def changes_disks(self) -> bool:
        return False

    @property
    def host_loopback(self) -> None:
        # The host has an address of its own on the guests' network, which leads to services that listen there.
        return None

    @property
    def snapshotter(self) -> None:
        # None of them saves a machine's state.
        return None


class LeasedMachine(GuardedMachine):
    """The part of a `pytest_xhyve.hypervisors.base.VirtualMachine` that depends on its lease.

    Args:
        name: the guest's name.
        process: its process.
        before: the leases from before the start.
    """

    def __init__(self, name: str, process: GuardedProcess, before: Sequence[Lease]) -> None:
        super().__init__(process)
        self.name = name
        self._before = before
        self._lock = threading.Lock()
        self._answers: str | None = None
        self._reachability = Reachability(name)
        self._asked_arp = float("-inf")
        self._in_arp: list[str] = []

    def find_mac(self, records: Sequence[Lease]) -> str | None:
        """The Ethernet address of the machine's card, or None if it is not known yet.

        Args:
            records: the leases as they are now.
        """
        raise NotImplementedError

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
            raise XhyveError(self.explain_missing_address() or f"guest {self.name} has no address yet")
        return endpoint

    def count_accepted(self, port: int) -> int | None:  # noqa: ARG002
        return None

    def explain_missing_address(self) -> str | None:
        records = leases.read_leases()
        with self._lock:
            addresses = self._find_addresses(records)
        if len(addresses) > 1 or any(not self._is_left_over(address, records) for address in addresses):
            return None
        return leases.explain_no_lease(self._before)

    def _find_address(self, records: Sequence[Lease]) -> str | None:
        addresses = self._find_addresses(records)
        if len(addresses) < 2 or self._answers in addresses:
            return self._answers if self._answers in addresses else next(iter(addresses), None)
        # Some addresses may be from earlier boots: only one that answers on the SSH port counts.
        self._answers = next(filter(_answers_on_ssh, addresses), None)
        return self._answers

    def _find_addresses(self, records: Sequence[Lease]) -> list[str]:
        """All addresses that the machine may have."""
        found = self.find_mac(records)
        if found is None:
            return []
        mac = leases.parse_mac(found)
        # An earlier guest of the slot, with another system, may have left a lease under this Ethernet address.
        return list(dict.fromkeys([*leases.find_addresses(mac, records), *self._ask_arp(mac, records)]))

    def _is_left_over(self, address: str, records: Sequence[Lease]) -> bool:
        """Whether *address* is from before the start, and since then some guest got one under a DUID."""
        fresh = leases.find_new(self._before, records)
        return any(lease.mac is None for lease in fresh) and all(lease.address != address for lease in fresh)

    def _ask_arp(self, mac: bytes, records: Sequence[Lease]) -> list[str]:
        """The addresses that the host knows for *mac*, and that some guest leased under a DUID."""
        nameless = {lease.address for lease in records if lease.mac is None and lease.is_live(time.time())}
        if not nameless:
            return []
        if monotonic() >= self._asked_arp + _ARP_SECONDS:
            self._in_arp = arp.find_addresses(mac, arp.read_table())
            self._asked_arp = monotonic()
        return [address for address in self._in_arp if address in nameless]


def _answers_on_ssh(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
