"""Give each restored guest its own identity: clock, random numbers, host name, machine id, addresses.

Guests restored from one template start as identical machines. The agent in the guest sets all of this, in one message,
before the guest uses its network.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pytest_xhyve.guest.agent import PLACE_PROGRAM, Agent, AgentError, Call, RunAsRoot, call
from pytest_xhyve.guest.agent_program import build_program
from pytest_xhyve.guest.kernel_calls import append_and_sync, reseed, set_clock, set_mac, write_at_start
from pytest_xhyve.guest.lan_setup import HOSTS, lan_calls
from pytest_xhyve.guest.network_managers import LEAVE_ALONE
from pytest_xhyve.guest.system_calls import AT_FDCWD
from pytest_xhyve.model.architecture import Architecture
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.lan import LanPlace
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.values import short_repr

CLOCK_SECONDS = 0.05
_CLOCK_TRIES = 5
_MAX_CLOCK_SECONDS = 1.0

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
    device=${device%/device}
    echo "$(cat "$device/address") ${device##*/}"
done
"""
)


# What the script prints; a card's name has 15 bytes at most (IFNAMSIZ).
_PATH = re.compile(r"/[!-~]{1,200}")
_CARD = re.compile(r"[!-.0-~]{1,15}")


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
        lan_interfaces: the names of the cards for LANs.
        accept_dad: the IPv6 setting ``accept_dad`` of each of them; negative if the guest has no IPv6.
        hosts: ``/etc/hosts``, to append; negative if it cannot be written.
    """

    random: int
    socket: int
    interface: str
    machine_id: int
    lan_interfaces: tuple[str, ...] = ()
    accept_dad: tuple[int, ...] = ()
    hosts: int = -errno.ENOENT

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """The object from which `to_dict` made *content*."""
        # JSON has no tuples.
        lists: dict[str, Any] = {key: tuple(content.get(key, ())) for key in ("lan_interfaces", "accept_dad")}
        return cls(**{**content, **lists})

    def to_dict(self) -> dict[str, Any]:
        """This object as plain data, for a JSON file."""
        return asdict(self)


def install_agent(
    run_as_root: RunAsRoot,
    architecture: Architecture,
    channel: socket.socket,
    mac: str,
    lan_macs: Sequence[str],
    timeout: float,
) -> AgentState:
    """Start the agent in a running guest, and let it open the files that it needs.

    Args:
        run_as_root: runs a shell line in the guest with these bytes as standard input; returns its standard output,
            and raises `IdentityError` if the exit code is not 0.
        architecture: the guest's.
        channel: the host's end of the guest's second serial port.
        mac: the network card's Ethernet address.
        lan_macs: those of the cards for LANs.
        timeout: the limit of an answer of the agent, in seconds.

    Raises:
        IdentityError: the guest cannot run the agent, or its kernel cannot reseed its random numbers.
    """
    # The script lists only devices: a bridge over the card has the same address.
    path, *cards = run_as_root(
        _INSTALL.replace("PORT", architecture.agent_port), build_program(architecture)
    ).splitlines() or [""]
    interface, *lan_interfaces = _find_interfaces(cards, [mac, *lan_macs])
    if not _PATH.fullmatch(path):
        raise IdentityError(f"the guest names {short_repr(path)} as its agent")
    if lan_interfaces:
        # A manager that refuses matters only to guests on a LAN.
        names = " ".join(map(shlex.quote, lan_interfaces))
        run_as_root(f'{LEAVE_ALONE}\nfor name in {names}; do leave_alone "$name"; done; :', b"")
    agent = Agent(channel, architecture, timeout)
    try:
        agent.synchronize()
        # A process with its own session does not end at logout.
        _, _, _, random, descriptor, machine_id, hosts, *accept_dad = agent.execute(
            call("unlinkat", AT_FDCWD, os.fsencode(path) + b"\0", 0),
            call("setsid"),
            call("setpriority", 0, 0, -20),
            call("openat", AT_FDCWD, b"/dev/urandom\0", os.O_WRONLY),
            call("socket", socket.AF_INET, socket.SOCK_DGRAM, 0),
            call("openat", AT_FDCWD, b"/etc/machine-id\0", os.O_WRONLY),
            call("openat", AT_FDCWD, os.fsencode(HOSTS) + b"\0", os.O_WRONLY | os.O_APPEND),
            *(
                call("openat", AT_FDCWD, os.fsencode(f"/proc/sys/net/ipv6/conf/{name}/accept_dad\0"), os.O_WRONLY)
                for name in lan_interfaces
            ),
        )
    except AgentError as error:
        raise IdentityError(str(error)) from error
    state = AgentState(random, descriptor, interface, machine_id, tuple(lan_interfaces), tuple(accept_dad), hosts)
    _check({"open /dev/urandom": random, "create a socket": descriptor})
    # If the kernel cannot do this, no template is saved, so no guest is restored.
    _execute(agent, {"reseed the kernel's random numbers": reseed(state.random)})
    return state


def set_identity(agent: Agent, state: AgentState, machine: Machine, place: LanPlace | None) -> None:
    """Give a restored guest its own identity, and set its clock and its random numbers.

    Args:
        agent: the agent.
        state: its state in the template.
        machine: the guest's machine.
        place: the guest's place on LANs; None if it is on none.

    Raises:
        IdentityError: the agent did not answer, or one of the steps failed.
    """
    hostname = machine.name.encode()
    mac = machine.nics[0].mac
    assert mac is not None
    steps: dict[str, tuple[Call, ...]] = {
        "set the host name": (call("sethostname", hostname, len(hostname)),),
        "set the Ethernet address": (set_mac(state.interface, state.socket, mac),),
    }
    if state.machine_id >= 0:
        # machine-id(5)
        steps["set the machine id"] = (write_at_start(state.machine_id, f"{machine.uuid.hex}\n".encode()),)
    steps |= _lan_steps(state, machine, place)
    _set_clock_and_seed(agent, state, steps)


def set_clock_and_seed(agent: Agent, state: AgentState) -> None:
    """Set the clock and the random numbers of a guest that was restored from its own checkpoint.

    Args:
        agent: the agent.
        state: its state in the checkpoint.

    Raises:
        IdentityError: the agent did not answer, or one of the steps failed.
    """
    _set_clock_and_seed(agent, state, {})


def _find_interfaces(cards: Sequence[str], macs: Sequence[str]) -> list[str]:
    """The name of the card with each of *macs*; each of *cards* is an Ethernet address and a name."""
    names = {address.lower(): name for address, _, name in (card.partition(" ") for card in cards)}
    missing = [mac for mac in macs if mac not in names]
    if missing:
        raise IdentityError(f"no network card has the address {missing[0]}")
    found = [names[mac] for mac in macs]
    impossible = [name for name in found if not _CARD.fullmatch(name)]
    if impossible:
        raise IdentityError(f"the guest names {short_repr(impossible[0])} as a network card")
    return found


def _lan_steps(state: AgentState, machine: Machine, place: LanPlace | None) -> dict[str, tuple[Call, ...]]:
    steps: dict[str, tuple[Call, ...]] = {}
    for interface, mac in zip(state.lan_interfaces, machine.lan_macs, strict=True):
        steps[f"set the Ethernet address of {interface}"] = (set_mac(interface, state.socket, mac),)
    if place is None:
        return steps
    if state.hosts < 0:
        raise IdentityError(f"cannot write {HOSTS} in the guest: {os.strerror(-state.hosts)}")
    for interface, accept_dad, card in zip(state.lan_interfaces, state.accept_dad, place.cards, strict=True):
        steps[f"set the address of {interface}"] = lan_calls(card, interface, state.socket, accept_dad)
    # On the disk at once, as a power cut would leave zeros in their place (ext4(5), delalloc).
    steps[f"write {HOSTS}"] = append_and_sync(state.hosts, place.hosts.encode())
    return steps


def _set_clock_and_seed(agent: Agent, state: AgentState, more_steps: dict[str, tuple[Call, ...]]) -> None:
    _execute(agent, {"reseed the kernel's random numbers": reseed(state.random), **more_steps})
    # In a message of its own, which is short: the guest set its clock at some time between the message and the answer,
    # so that time bounds the clock's error. Each new time wakes systemd and others, so it comes last, and rarely twice.
    for _ in range(_CLOCK_TRIES):
        begin = monotonic()
        _execute(agent, {"set the clock": (set_clock(),)})
        if monotonic() - begin < CLOCK_SECONDS:
            break
    else:
        if monotonic() - begin > _MAX_CLOCK_SECONDS:
            raise IdentityError(f"the guest is too slow: it took more than {_MAX_CLOCK_SECONDS:g} s to set its clock")


def _execute(agent: Agent, steps: dict[str, tuple[Call, ...]]) -> None:
    try:
        results = iter(agent.execute(*(each for calls in steps.values() for each in calls)))
    except AgentError as error:
        raise IdentityError(str(error)) from error
    _check({step: min([next(results) for _ in calls]) for step, calls in steps.items()})


def _check(results: dict[str, int]) -> None:
    for step, result in results.items():
        if result < 0:
            raise IdentityError(f"the agent cannot {step}: {os.strerror(-result)}")
