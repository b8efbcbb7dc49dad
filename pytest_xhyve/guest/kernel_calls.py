"""System calls that the plugin makes in a guest: for its clock and its random numbers."""

from __future__ import annotations

import os
import secrets
import struct
import time

from pytest_xhyve.guest.agent import Call, call

RANDOM_DEVICE = "/dev/urandom"

# Numbers of system calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl in Linux).
_OPEN, _CLOSE, _IOCTL, _ADJTIMEX, _CLOCK_SETTIME = 2, 3, 16, 159, 227
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
    return call(_OPEN, os.fsencode(path) + b"\0", os.O_WRONLY)


def close(fd: int) -> Call:
    """Close a descriptor."""
    return call(_CLOSE, fd)


def reseed(random: int) -> tuple[Call, ...]:
    """Add random numbers of the host, and make every generator of the kernel use them at once (random(4)).

    Args:
        random: the agent's descriptor of ``/dev/urandom``.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    return (
        call(_IOCTL, random, _RNDADDENTROPY, struct.pack("=ii", 8 * len(seed), len(seed)) + seed),
        call(_IOCTL, random, _RNDRESEEDCRNG),
    )


def set_clock(ahead: float = 0.0) -> Call:
    """Set the clock to that of the host, and *ahead* seconds more (clock_settime(2)); it is read when this is sent."""

    def now(_: int) -> bytes:
        return struct.pack("=qq", *divmod(time.time_ns() + round(ahead * 1e9), 10**9))

    return call(_CLOCK_SETTIME, time.CLOCK_REALTIME, now)


def set_drift(drift: float) -> Call:
    """Let the clock gain *drift* seconds in each second (adjtimex(2)), between -`MAX_DRIFT` and `MAX_DRIFT`."""
    ticks, rest = divmod(round(drift * 1e6), 100)
    # modes, offset, freq, maxerror, esterror, status, constant, precision, tolerance, time (two words), tick
    values = (_ADJ_FREQUENCY | _ADJ_TICK, 0, rest * _PPM, 0, 0, 0, 0, 0, 0, 0, 0, _TICK_MICROSECONDS + ticks)
    timex = struct.pack("=I4x4qi4x3q2qq", *values)
    return call(_ADJTIMEX, timex.ljust(_TIMEX_BYTES, b"\0"))
