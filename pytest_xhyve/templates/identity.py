"""Give each restored guest its own identity: clock, random numbers, host name, machine id, Ethernet address.

Guests restored from one template start as identical machines. The agent in the guest sets all of this, in one message,
before the guest uses its network.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_xhyve.guest.agent import PLACE_PROGRAM, Agent, AgentError, Call, RunAsRoot, build_program, call
from pytest_xhyve.guest.kernel_calls import reseed, set_clock
from pytest_xhyve.model.clock import monotonic

AGENT_PORT = "/dev/ttyS1"
CLOCK_SECONDS = 0.05
_CLOCK_TRIES = 5
_MAX_CLOCK_SECONDS = 1.0

# Numbers of system calls on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl in Linux).
_OPEN, _IOCTL, _PWRITE64, _SOCKET, _UNLINK, _SETSID = 2, 16, 18, 41, 87, 112
_SETPRIORITY, _SETHOSTNAME = 141, 170
# netdevice(7)
_SIOCSIFHWADDR = 0x8924
_ARPHRD_ETHER = 1

# The script opens the port before it ends: a later open would discard what has arrived by then (serial8250_do_startup
# in Linux), and the agent would wait forever. The subshell leads no session, so the port does not become its terminal,
# which hangs up at logout.
_INSTALL = (
    PLACE_PROGRAM
    + """
stty -F PORT 115200 raw -echo clocal 2>/dev/null || { rm -f "$found"; echo "no serial port PORT" >&2; exit 1; }
( exec 3<>PORT || exit; "$found" <&3 >&3 2>/dev/null & ) || { rm -f "$found"; exit 1; }
echo "$found"
for device in /sys/class/net/*/device; do
    grep -li MAC "${device%/device}/address"
done
# The loop ends with the status of the last card.
:
""".replace("PORT", AGENT_PORT)
)


class IdentityError(Exception):
    """The plugin cannot give a restored guest its own identity; the message states what failed."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """The files that the agent in a template holds open, as its descriptors, and the network card's name.

    Attributes:
        random: ``/dev/urandom``.
        socket: a socket for ioctl(2) on network cards (netdevice(7)).
        interface: the network card's name.
        machine_id: ``/etc/machine-id``; negative if the guest has none.
    """

    random: int
    socket: int
    interface: str
    machine_id: int

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """The object from which `to_dict` made *content*."""
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)


def install_agent(run_as_root: RunAsRoot, channel: socket.socket, mac: str, timeout: float) -> AgentState:
    """Start the agent in a running guest, and let it open the files that it needs.

    Args:
        run_as_root: runs a shell line in the guest with these bytes as standard input; returns its standard output,
            and raises `IdentityError` if the exit code is not 0.
        channel: the host's end of the guest's second serial port.
        mac: the network card's Ethernet address.
        timeout: the limit of an answer of the agent, in seconds.

    Raises:
        IdentityError: the guest cannot run the agent, or its kernel cannot reseed its random numbers.
    """
    output = run_as_root(_INSTALL.replace("MAC", mac), build_program()).split()
    if len(output) < 2:
        raise IdentityError(f"no network card has the address {mac}")
    # The script lists only devices: a bridge over the card has the same address.
    path, address = output[:2]
    agent = Agent(channel, timeout)
    try:
        agent.synchronize()
        # A process with its own session does not end at logout.
        _, _, _, random, descriptor, machine_id = agent.execute(
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
    _check({"open /dev/urandom": random, "create a socket": descriptor})
    # If the kernel cannot do this, no template is saved, so no guest is restored.
    _execute(agent, {"reseed the kernel's random numbers": reseed(state.random)})
    return state


def set_identity(
    channel: socket.socket, state: AgentState, *, name: str, machine_id: str, mac: str, timeout: float
) -> None:
    """Give a restored guest its own identity, and set its clock and its random numbers.

    Args:
        channel: the host's end of the guest's second serial port.
        state: the state of the agent in the template.
        name: the host name.
        machine_id: 32 hexadecimal digits (machine-id(5)).
        mac: the Ethernet address.
        timeout: the limit of an answer of the agent, in seconds.

    Raises:
        IdentityError: the agent did not answer, or one of the steps failed.
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
    _set_clock_and_seed(Agent(channel, timeout), state, steps)


def set_clock_and_seed(channel: socket.socket, state: AgentState, *, timeout: float) -> None:
    """Set the clock and the random numbers of a guest that was restored from its own checkpoint.

    Args:
        channel: the host's end of the guest's second serial port.
        state: the state of the agent in the checkpoint.
        timeout: the limit of an answer of the agent, in seconds.

    Raises:
        IdentityError: the agent did not answer, or one of the steps failed.
    """
    _set_clock_and_seed(Agent(channel, timeout), state, {})


def _set_clock_and_seed(agent: Agent, state: AgentState, more_steps: dict[str, tuple[Call, ...]]) -> None:
    begin = monotonic()
    _execute(
        agent,
        {
            "reseed the kernel's random numbers": reseed(state.random),
            "set the clock": (set_clock(),),
            **more_steps,
        },
    )
    # The guest set its clock at some time between the message and the answer, so that time bounds the clock's error.
    for _ in range(_CLOCK_TRIES):
        if monotonic() - begin < CLOCK_SECONDS:
            break
        begin = monotonic()
        _execute(agent, {"set the clock": (set_clock(),)})
    else:
        if monotonic() - begin > _MAX_CLOCK_SECONDS:
            raise IdentityError(f"the guest is too slow: it took more than {_MAX_CLOCK_SECONDS:g} s to set its clock")


def _execute(agent: Agent, steps: dict[str, tuple[Call, ...]]) -> None:
    try:
        results = iter(agent.execute(*(each for calls in steps.values() for each in calls)))
    except AgentError as error:
        raise IdentityError(str(error)) from error
    _check({step: min(next(results) for _ in calls) for step, calls in steps.items()})


def _check(results: dict[str, int]) -> None:
    for step, result in results.items():
        if result < 0:
            raise IdentityError(f"the agent cannot {step}: {os.strerror(-result)}")
