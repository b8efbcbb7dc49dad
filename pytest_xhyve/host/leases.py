"""The leases that macOS's DHCP server has given, read from its file.

bootpd(8) keeps ``/var/db/dhcpd_leases``. It writes a new file and renames it into place (bootplib/NICache.c in Apple's
bootp sources). So a reader has to open the file again each time, and never reads half a record. The record that was
used last comes first. If several records name the same address, the first one is valid.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from types import MappingProxyType

LEASES = Path("/var/db/dhcpd_leases")
POOL = 253
"""The number of addresses that bootpd has for guests: 192.168.64.2 to 192.168.64.254."""

_ETHERNET = 1
# A client identifier by RFC 4361: four octets for the interface, then a DUID. Two kinds of DUID end in an Ethernet
# address (RFC 8415, sections 11.2 and 11.4): LLT has type 1 and a time, LL has type 3 and none.
_DUID = 0xFF
_LENGTHS: Mapping[tuple[int, ...], int] = MappingProxyType({(0, 1, 0, _ETHERNET): 18, (0, 3, 0, _ETHERNET): 14})
"""The first octets of such a DUID (its type, and that of the hardware) → the number of octets of the identifier."""
_HARDWARE = re.compile(r"([0-9a-f]{1,2}),([0-9a-f]{1,2}(?::[0-9a-f]{1,2})*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lease:
    """One record.

    Attributes:
        address: the guest's IPv4 address.
        mac: the guest's Ethernet address, or None if the record does not contain it: if a guest identifies itself by
            a DUID (RFC 4361), the record contains that instead. Some DUIDs end in an Ethernet address, which is the
            guest's own unless its disk was copied from another machine.
        name: the host name that the guest sent, or None.
        expires: seconds since the epoch; None if the record's time is invalid.
    """

    address: str
    mac: bytes | None
    name: str | None
    expires: int | None

    def is_live(self, now: float) -> bool:
        """Whether the lease has not expired at *now*, in seconds since the epoch."""
        return self.expires is None or self.expires > now


def parse_mac(text: str) -> bytes:
    """The six bytes of ``8e:1:99:9c:54:b1``, with or without leading zeros.

    Raises:
        ValueError: *text* is not an Ethernet address.
    """
    octets = text.strip().split(":")
    if len(octets) != 6 or not all(re.fullmatch(r"[0-9a-fA-F]{1,2}", octet) for octet in octets):
        raise ValueError(f"{text!r} is not an Ethernet address")
    return bytes(int(octet, 16) for octet in octets)


def read_leases(path: Path = LEASES) -> list[Lease]:
    """The records in the file at *path*, the most recently used first; empty if the file cannot be read."""
    try:
        return parse_leases(path.read_bytes())
    except OSError:
        return []


def parse_leases(content: bytes) -> list[Lease]:
    """The records in *content*; incomplete records are skipped."""
    leases = []
    record: dict[str, str] | None = None
    for line in content.decode(errors="replace").split("\n"):
        text = line.strip(" \t\r")
        if text == "{":
            record = {}
        elif text == "}":
            if record is not None and (lease := _as_lease(record)) is not None:
                leases.append(lease)
            record = None
        elif record is not None:
            key, _, value = text.partition("=")
            record[key] = value
    return leases


def find_addresses(mac: bytes, leases: Sequence[Lease], now: float | None = None) -> list[str]:
    """The addresses that the guest with *mac* may have, from unexpired leases; the one that expires last comes first.

    An address that a more recent record gives to another guest is left out.
    """
    now = time.time() if now is None else now
    owners: dict[str, Lease] = {}
    for lease in leases:
        owners.setdefault(lease.address, lease)
    mine = [lease for lease in owners.values() if lease.mac == mac and lease.is_live(now)]
    return [lease.address for lease in sorted(mine, key=lambda lease: -(lease.expires or 0))]


def find_new(before: Iterable[Lease], after: Iterable[Lease]) -> list[Lease]:
    """The leases that bootpd gave or renewed between two reads of the file."""
    known = set(before)
    return [lease for lease in after if lease not in known]


def explain_no_lease(before: Sequence[Lease], path: Path = LEASES, now: float | None = None) -> str:
    """Why a running guest has no lease, as far as the file shows, and the fix.

    Args:
        before: the records in the file when the guest was started.
        path: bootpd's file.
        now: seconds since the epoch.
    """
    now = time.time() if now is None else now
    leases = read_leases(path)
    client_identifier = (
        "  let the guest send its Ethernet address: `dhcp-identifier: mac` for netplan, `ClientIdentifier=mac` in "
        "systemd-networkd's .network file,\n"
        "  `dhcp-client-id=mac` for NetworkManager; or set dhcp_ignore_client_identifier in /etc/bootpd.plist"
    )
    if any(lease.mac is None for lease in find_new(before, leases)):
        return (
            f"a guest got a lease under a client identifier instead of its Ethernet address ({path}: see its "
            f"hw_address), and arp(8) shows no address for it\n{client_identifier}"
        )
    full = _full_network(leases, now)
    if full is not None:
        return (
            f"all {POOL} addresses of {full} are leased ({path}), each for a day\n"
            f"  stop all guests, then remove the records: `sudo rm {path}`, then "
            "`sudo launchctl kickstart -kp system/com.apple.bootpd`"
        )
    state = (
        f"{path} has no lease for the guest" if path.exists() else f"{path} does not exist: no guest ever got a lease"
    )
    older = (
        "\n  an earlier guest has a lease under a client identifier; if this image sends one too:\n" + client_identifier
        if any(lease.mac is None and lease.is_live(now) for lease in leases)
        else ""
    )
    return (
        f"{state}; the guest did not ask by DHCP, or macOS's DHCP server did not answer\n"
        "  if the firewall blocks it: `sudo /usr/libexec/ApplicationFirewall/socketfilterfw --add "
        "/usr/libexec/bootpd`, then the same with `--unblock`\n"
        "  if it is disabled: `sudo launchctl enable system/com.apple.bootpd`\n"
        "  if a VPN or another DHCP server interferes: disconnect it, or run `pytest-xhyve doctor --fix-vpn`\n"
        "  `pytest-xhyve doctor` checks for each of these; the guest's console shows whether it asked"
        f"{older}"
    )


def _full_network(leases: Sequence[Lease], now: float) -> IPv4Network | None:
    """The network whose addresses are all leased, or None; the file may contain leases of several networks."""
    taken = {lease.address for lease in leases if lease.is_live(now)}
    counts = Counter(IPv4Network(f"{address}/24", strict=False) for address in taken)
    return next((network for network, count in counts.items() if count >= POOL), None)


def _as_lease(record: dict[str, str]) -> Lease | None:
    try:
        address = str(IPv4Address(record["ip_address"]))
    except (KeyError, AddressValueError):
        return None
    return Lease(address, _as_mac(record.get("hw_address", "")), record.get("name"), _as_time(record.get("lease", "")))


def _as_mac(text: str) -> bytes | None:
    match = _HARDWARE.fullmatch(text)
    if match is None:
        return None
    kind, octets = int(match[1], 16), bytes(int(octet, 16) for octet in match[2].split(":"))
    if kind == _DUID:
        return octets[-6:] if len(octets) == _LENGTHS.get(tuple(octets[4:8])) else None
    return octets if kind == _ETHERNET and len(octets) == 6 else None


def _as_time(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,16}", text) else None
