"""An identity of its own for each restored guest: clock, random numbers, host name, machine id, Ethernet address.

Clones of one template wake up as the same machine. What is done about it here is done before the guest's network
is used, by the agent, in one message.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_xhyve.templates.agent import Agent, AgentError, Call, call, program

AGENT_PORT = "/dev/ttyS1"
CLOCK_SECONDS = 0.05
_CLOCK_TRIES = 5
_CLOCK_AT_WORST_SECONDS = 1.0
_SEED_BYTES = 64

# Numbers of system calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl in Linux).
_OPEN, _IOCTL, _PWRITE64, _SOCKET, _UNLINK, _SETSID = 2, 16, 18, 41, 87, 112
_SETPRIORITY, _SETHOSTNAME, _CLOCK_SETTIME = 141, 170, 227
# random(4) and netdevice(7)
_RNDADDENTROPY, _RNDRESEEDCRNG, _SIOCSIFHWADDR = 0x40085203, 0x5207, 0x8924
_ARPHRD_ETHER = 1

# The files are tried by running them with nothing to read, as folders may be mounted noexec. The port is open before
# the line ends: opening it later clears what has come meanwhile (serial8250_do_startup in Linux), and the agent would
# wait for ever. A subshell leads no session, so that it does not become a terminal that hangs up with the login.
_INSTALL = """
umask 077
for folder in /tmp /var/tmp /root /dev/shm; do
    agent=$folder/.xhyve-agent-$$
    if [ -z "$from" ]; then cat >"$agent" && from=$agent; else cp "$from" "$agent"; fi 2>/dev/null || continue
    chmod 700 "$agent"
    if "$agent" </dev/null 2>/dev/null; then found=$agent; break; fi
done
[ -n "$from" ] && [ "$from" != "$found" ] && rm -f "$from"
[ -n "$found" ] || { echo "no folder from which programs may be run" >&2; exit 1; }
stty -F PORT 115200 raw -echo clocal 2>/dev/null || { rm -f "$found"; echo "no serial port PORT" >&2; exit 1; }
( exec 3<>PORT || exit; "$found" <&3 >&3 2>/dev/null & ) || { rm -f "$found"; exit 1; }
echo "$found"
for device in /sys/class/net/*/device; do
    grep -li MAC "${device%/device}/address"
done
""".replace("PORT", AGENT_PORT)


class IdentityError(Exception):
    """A restored guest cannot be given an identity of its own; the message says what failed."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """What the agent in a template holds open, as its numbers.

    Attributes:
        random: ``/dev/urandom``.
        socket: any socket, by which network cards are addressed (netdevice(7)).
        interface: the network card's name.
        machine_id: ``/etc/machine-id``, or below 0 where the guest has none.
    """

    random: int
    socket: int
    interface: str
    machine_id: int

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """As `write` wrote it."""
        return cls(**content)

    def write(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def install_agent(
    run_as_root: Callable[[str, bytes], str], channel: socket.socket, mac: str, timeout: float
) -> AgentState:
    """Put the agent into a running guest, and have it open what it will need.

    Args:
        run_as_root: runs a shell line in the guest with these bytes on standard input; returns what it said, and
            raises `IdentityError` when it fails.
        channel: the host's end of the guest's second serial port.
        mac: the network card's Ethernet address.
        timeout: seconds that the agent may take to answer.

    Raises:
        IdentityError: the guest cannot run it, or lets nobody reseed its random numbers.
    """
    said = run_as_root(_INSTALL.replace("MAC", mac), program()).split()
    if len(said) < 2:
        raise IdentityError(f"no network card has the address {mac}")
    # A bridge over it has its address too, and is no device.
    path, address = said[:2]
    agent = Agent(channel, timeout)
    try:
        # As a session of its own, no logout ends it.
        _, _, _, random, descriptor, machine_id = agent.make(
            call(_UNLINK, os.fsencode(path) + b"\0"),
            call(_SETSID),
            call(_SETPRIORITY, 0, 0, -20),
            call(_OPEN, b"/dev/urandom\0", os.O_WRONLY),
            call(_SOCKET, socket.AF_INET, socket.SOCK_DGRAM, 0),
            call(_OPEN, b"/etc/machine-id\0", os.O_WRONLY),
        )
    except AgentError as error:
        raise IdentityError(str(error)) from error
    state = AgentState(random, descriptor, address.split("/")[4], machine_id)
    _check({"open /dev/urandom": random, "make a socket": descriptor})
    # Asked now, so that no guest of a kernel that cannot do it is ever restored.
    _make(agent, {"reseed the kernel's random numbers": _reseed(state)})
    return state


def set_identity(
    channel: socket.socket, state: AgentState, *, name: str, machine_id: str, mac: str, timeout: float
) -> None:
    """Give a restored guest an identity of its own.

    Args:
        channel: the host's end of the guest's second serial port.
        state: from the template.
        name: the host name.
        machine_id: 32 hexadecimal digits (machine-id(5)).
        mac: the Ethernet address.
        timeout: seconds that the agent may take to answer.

    Raises:
        IdentityError: a part of it could not be done.
    """
    hostname = name.encode()
    request = struct.pack(
        "=16sH6s16s", state.interface.encode(), _ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")), b""
    )
    steps: dict[str, tuple[Call, ...]] = {
        "set the host name": (call(_SETHOSTNAME, hostname, len(hostname)),),
        "set the Ethernet address": (call(_IOCTL, state.socket, _SIOCSIFHWADDR, request),),
    }
    if state.machine_id >= 0:
        text = f"{machine_id}\n".encode()
        steps["set the machine id"] = (call(_PWRITE64, state.machine_id, text, len(text), 0),)
    _refresh(Agent(channel, timeout), state, steps)


def set_clock_and_seed(channel: socket.socket, state: AgentState, *, timeout: float) -> None:
    """Give a guest that was restored as itself what only the present has: the clock and random numbers.

    Args:
        channel: the host's end of the guest's second serial port.
        state: of the agent in it.
        timeout: seconds that the agent may take to answer.

    Raises:
        IdentityError: a part of it could not be done.
    """
    _refresh(Agent(channel, timeout), state, {})


def _refresh(agent: Agent, state: AgentState, steps: dict[str, tuple[Call, ...]]) -> None:
    """Reseed, set the clock, then make *steps*."""
    begin = time.monotonic()
    _make(
        agent,
        {"reseed the kernel's random numbers": _reseed(state), "set the clock": (_set_clock(),), **steps},
    )
    # The clock was set somewhere between the question and the answer.
    for _ in range(_CLOCK_TRIES):
        if time.monotonic() - begin < CLOCK_SECONDS:
            break
        begin = time.monotonic()
        _make(agent, {"set the clock": (_set_clock(),)})
    else:
        if time.monotonic() - begin > _CLOCK_AT_WORST_SECONDS:
            raise IdentityError("the guest is too slow for its clock to be set")


def _reseed(state: AgentState) -> tuple[Call, ...]:
    """Mix in numbers of the host, and have every generator in the kernel draw from them at once (random(4))."""
    seed = secrets.token_bytes(_SEED_BYTES)
    return (
        call(_IOCTL, state.random, _RNDADDENTROPY, struct.pack("=ii", 8 * len(seed), len(seed)) + seed),
        call(_IOCTL, state.random, _RNDRESEEDCRNG),
    )


def _set_clock() -> Call:
    now = time.time_ns()
    return call(_CLOCK_SETTIME, time.CLOCK_REALTIME, struct.pack("=qq", now // 10**9, now % 10**9))


def _make(agent: Agent, steps: dict[str, tuple[Call, ...]]) -> None:
    try:
        results = iter(agent.make(*(each for calls in steps.values() for each in calls)))
    except AgentError as error:
        raise IdentityError(str(error)) from error
    _check({step: min(next(results) for _ in calls) for step, calls in steps.items()})


def _check(results: dict[str, int]) -> None:
    for step, result in results.items():
        if result < 0:
            raise IdentityError(f"the guest's kernel does not let us {step}: {os.strerror(-result)}")
