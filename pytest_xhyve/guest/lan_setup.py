"""Give a guest its addresses on its LANs, and the names of the other guests there.

The agent does this in a restored guest, in the message that gives the guest its identity. After a boot, the same is
done over SSH.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pytest_xhyve.guest.agent import Call
from pytest_xhyve.guest.kernel_calls import bring_up, set_ipv4_address, write_at_start
from pytest_xhyve.guest.network_managers import LEAVE_ALONE
from pytest_xhyve.guest.root_shell import WithPower, root_shell
from pytest_xhyve.model.errors import XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.model.lan import LanCard, LanPlace
    from pytest_xhyve.model.machine import Machine

HOSTS = "/etc/hosts"
"""The file with the names of the other guests (hosts(5))."""

# proc(5)
_NAME = "echo {name} >/proc/sys/kernel/hostname || exit\n"
# Names of cards differ from system to system, so the script looks for their Ethernet addresses. BusyBox and iproute2
# take the same arguments. Without accept_dad=0, the kernel keeps an IPv6 address back for a second or two.
_CARD = """
name=
for device in /sys/class/net/*/device; do
    device=${{device%/device}}
    if grep -qi {mac} "$device/address"; then name=${{device##*/}}; fi
done
[ -n "$name" ] || {{ echo "no network card has the address {mac}" >&2; exit 1; }}
leave_alone "$name" || exit
echo 0 2>/dev/null >"/proc/sys/net/ipv6/conf/$name/accept_dad"
if command -v ip >/dev/null; then
    ip link set "$name" up && {{ ip address show dev "$name" | grep -qF " {address} " ||
        ip address add {address} broadcast + dev "$name"; }}
else
    ifconfig "$name" {ip} netmask {netmask} up
fi || exit
"""
_HOST = "grep -qxF {line} {file} || echo {line} >>{file} || exit\n"


def lan_calls(card: LanCard, interface: str, fd: int, accept_dad: int) -> tuple[Call, ...]:
    """The system calls that give a network card its address on a LAN, in a guest that has an agent.

    Args:
        card: its place.
        interface: the card's name.
        fd: a socket for ioctl(2) on network cards (netdevice(7)).
        accept_dad: the card's setting of that name; negative if the guest has no IPv6. Without it, the kernel keeps an
            IPv6 address back for a second or two.
    """
    skip = (write_at_start(accept_dad, b"0\n"),) if accept_dad >= 0 else ()
    return (*skip, *set_ipv4_address(interface, fd, card.address), bring_up(interface, fd))


def set_up_lans(guest: WithPower, machine: Machine, place: LanPlace, timeout: float) -> None:
    """Give a guest that has booted its host name, its addresses and the others' names; what is set already stays.

    Args:
        guest: a running guest.
        machine: its machine.
        place: its place.
        timeout: the limit, in seconds.

    Raises:
        XhyveError: the guest refused.
    """
    cards = [
        _CARD.format(mac=mac, address=card.address, ip=card.address.ip, netmask=card.address.netmask)
        # On the common network of a hypervisor, a guest's address is on the card of every guest already.
        for mac, card in zip(machine.lan_macs, place.cards if machine.lan_macs else (), strict=True)
    ]
    names = [_HOST.format(line=shlex.quote(line), file=HOSTS) for line in place.hosts.splitlines()]
    try:
        root_shell(guest, timeout)("".join([LEAVE_ALONE, _NAME.format(name=machine.name), *cards, *names, "sync"]), b"")
    except XhyveError as error:
        raise XhyveError(f"cannot set the LAN addresses and names of guest {machine.name}: {error}") from error
