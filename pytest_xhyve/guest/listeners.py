"""The TCP sockets of a guest on which a program listens (proc_net_tcp.rst in Linux)."""

from __future__ import annotations

import re

TABLE = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null"
"""A command for the guest; it prints the kernel's tables of TCP sockets."""

# A row: the local address and port, the remote ones, the state, of which 0A is LISTEN, then queues, timer, retransmits,
# the user, probes, and the socket's inode.
_LISTENER = re.compile(
    r"^ *[0-9]+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:0000 0A (?:(?:\S+ +){5}([0-9]+))?", re.MULTILINE
)
_IPV6_LOOPBACK = f"{'0' * 24}01000000"
# Addresses are in the guest's byte order, which is little-endian. ::ffff:127.0.0.0/104 is IPv4's loopback network.
_IPV4_LOOPBACK = re.compile(r"(?:0{16}FFFF0000)?[0-9A-F]{6}7F")


def find_addresses(table: str, port: int) -> set[str]:
    """The local addresses on which the TCP *port* is served, as the kernel prints them.

    Args:
        table: the output of `TABLE`.
        port: the port.
    """
    return {address for address, number, _ in _LISTENER.findall(table) if int(number, 16) == port}


def find_inodes(table: str, port: int) -> set[int]:
    """The inodes of the sockets on which the TCP *port* is served.

    Args:
        table: the output of `TABLE`.
        port: the port.
    """
    return {int(inode) for _, number, inode in _LISTENER.findall(table) if inode and int(number, 16) == port}


def find_loopback_address(table: str, port: int) -> str | None:
    """The loopback address on which alone the TCP *port* is served in the guest; None if there is none.

    Args:
        table: the output of `TABLE`.
        port: the port.
    """
    found = find_addresses(table, port)
    if not found or not all(each == _IPV6_LOOPBACK or _IPV4_LOOPBACK.fullmatch(each) for each in found):
        return None
    ipv4 = found - {_IPV6_LOOPBACK}
    if not ipv4:
        return "::1"
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(min(ipv4)[-8:])))
