"""System calls that the plugin makes in a guest: for its clock, its random numbers and its network cards."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from ipaddress import IPv4Address, IPv4Interface

from pytest_xhyve.guest.agent import Call, call
from pytest_xhyve.guest.system_calls import AT_FDCWD

RANDOM_DEVICE = "/dev/urandom"

# netdevice(7), and struct ifreq there
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFHWADDR = 0x8914, 0x8916, 0x891C, 0x8924
_IFF_UP, _IFF_MULTICAST, _ARPHRD_ETHER = 0x1, 0x1000, 1
_IFREQ = struct.Struct("=16s24s")
# random(4)
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SEED_BYTES = 64
# struct timex and its modes (<linux/timex.h>, adjtimex(2)).
_TIMEX_BYTES = 208
_ADJ_FREQUENCY, _ADJ_TICK = 0x0002, 0x4000
_TICK_MICROSECONDS = 10_000
_PPM = 1 << 16

MAX_DRIFT = 0.1
"""The kernel's clock runs at most a tenth faster or slower than the hardware's (adjtimex(2), tick)."""


def open_for_writing(path: str) -> Call:
    """Open *path*; the result is a descriptor."""
    return call("openat", AT_FDCWD, os.fsencode(path) + b"\0", os.O_WRONLY)


def close(fd: int) -> Call:
    """Close a descriptor."""
    return call("close", fd)


def write_at_start(fd: int, data: bytes) -> Call:
    """Write *data* to the beginning of the file *fd* (pwrite(2))."""
    return call("pwrite64", fd, data, len(data), 0)


def append_and_sync(fd: int, data: bytes) -> tuple[Call, ...]:
    """Write *data* to the file *fd*, and wait until it is on the disk (fsync(2))."""
    return (call("write", fd, data, len(data)), call("fsync", fd))


def set_mac(interface: str, fd: int, mac: str) -> Call:
    """Set the Ethernet address of the network card *interface*; *fd* is a socket."""
    return _set_card(
        interface, fd, _SIOCSIFHWADDR, struct.pack("=H6s", _ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")))
    )


def set_ipv4_address(interface: str, fd: int, address: IPv4Interface) -> tuple[Call, ...]:
    """Set the address of the network card *interface*, and the size of its network; *fd* is a socket."""

    def as_sockaddr(ip: IPv4Address) -> bytes:
        # struct sockaddr_in (ip(7))
        return struct.pack("=HH4s", socket.AF_INET, 0, ip.packed)

    return (
        _set_card(interface, fd, _SIOCSIFADDR, as_sockaddr(address.ip)),
        _set_card(interface, fd, _SIOCSIFNETMASK, as_sockaddr(address.netmask)),
    )


def bring_up(interface: str, fd: int) -> Call:
    """Bring the network card *interface* up; *fd* is a socket."""
    return _set_card(interface, fd, _SIOCSIFFLAGS, struct.pack("=H", _IFF_UP | _IFF_MULTICAST))


def _set_card(interface: str, fd: int, request: int, value: bytes) -> Call:
    return call("ioctl", fd, request, _IFREQ.pack(os.fsencode(interface), value))


def reseed(random: int) -> tuple[Call, ...]:
    """Add random numbers of the host, and make every generator of the kernel use them at once (random(4)).

    Args:
        random: the agent's descriptor of ``/dev/urandom``.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    return (
        call("ioctl", random, _RNDADDENTROPY, struct.pack("=ii", 8 * len(seed), len(seed)) + seed),
        call("ioctl", random, _RNDRESEEDCRNG),
    )


def set_clock(ahead: float = 0.0) -> Call:
    """Set the clock to that of the host, and *ahead* seconds more (clock_settime(2)); it is read when this is sent."""

    def now(_: int) -> bytes:
        return struct.pack("=qq", *divmod(time.time_ns() + round(ahead * 1e9), 10**9))

    return call("clock_settime", time.CLOCK_REALTIME, now)


def set_drift(drift: float) -> Call:
    """Let the clock gain *drift* seconds in each second (adjtimex(2)), between -`MAX_DRIFT` and `MAX_DRIFT`."""
    ticks, rest = divmod(round(drift * 1e6), 100)
    # modes, offset, freq, maxerror, esterror, status, constant, precision, tolerance, time (two words), tick
    values = (_ADJ_FREQUENCY | _ADJ_TICK, 0, rest * _PPM, 0, 0, 0, 0, 0, 0, 0, 0, _TICK_MICROSECONDS + ticks)
    timex = struct.pack("=I4x4qi4x3q2qq", *values)
    return call("adjtimex", timex.ljust(_TIMEX_BYTES, b"\0"))
