"""Checks for the network of guests on a Mac: vmnet, the DHCP server, the firewall, VPNs.

What the programs of macOS answer is known from their manual pages and from people who showed it; nothing of it was run
on a Mac of ours. An answer that is not understood is a warning with the question in it, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address

from pytest_xhyve.doctor import vpn
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.mac_host import SEQUOIA, XHYVE, Mac, major_version
from pytest_xhyve.host.leases import POOL, read_leases
from pytest_xhyve.model.errors import XhyveError

_FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
_BOOTPD = "/usr/libexec/bootpd"
_RESTART_BOOTPD = "sudo launchctl kickstart -kp system/com.apple.bootpd"
_UNBLOCK_BOOTPD = f"sudo {_FIREWALL} --add {_BOOTPD}\nsudo {_FIREWALL} --unblock {_BOOTPD}"
# Fewer free addresses than this are soon gone: each new guest may take one for a day.
_FEW_ADDRESSES = 25


def check_vmnet(mac: Mac) -> Iterator[Finding]:
    """Whether vmnet's settings can be read, and which network it gives guests."""
    try:
        subnet = vpn.read_subnet(mac.vmnet)
    except XhyveError as error:
        cure = f"sudo plutil -p {mac.vmnet}\nsudo rm {mac.vmnet}"
        seen = f"its settings cannot be read: {error}; once they are gone, vmnet makes them anew:"
        yield Finding("vmnet", "warning", seen, cure)
        return
    if mac.vmnet.exists():
        yield Finding("vmnet", "ok", f"guests are in {subnet}")
    else:
        yield Finding("vmnet", "ok", f"was never used here; guests will be in {subnet}")


def check_bootpd(mac: Mac) -> Iterator[Finding]:
    """Whether launchd may start bootpd, the DHCP server from which guests have their addresses."""
    answer = mac.programs.run(["/bin/launchctl", "print-disabled", "system"])
    if answer.code != 0:
        seen = f"launchd does not say whether it is disabled: {answer.reason}"
        yield Finding("DHCP server", "warning", seen, "sudo launchctl print-disabled system")
        return
    # "=> true" until macOS 12, "=> disabled" since (usnistgov/macos_security#167).
    if re.search(r'"com\.apple\.bootpd" => (?:true|disabled)', answer.out) is None:
        yield Finding("DHCP server", "ok", "bootpd is not disabled")
        return
    cure = f"sudo launchctl enable system/com.apple.bootpd\n{_RESTART_BOOTPD}"
    if _is_sharing(mac):
        seen = "bootpd is disabled in launchd while vmnet is in use: guests get no address"
        yield Finding("DHCP server", "problem", seen, cure, XHYVE)
    else:
        # Ordinary Macs have it so (the plist in fleetdm/fleet#9619); whether vmnet then enables it is not documented.
        seen = "bootpd is disabled in launchd, which is usual while no guest runs; if guests get no address:"
        yield Finding("DHCP server", "warning", seen, cure)


def _is_sharing(mac: Mac) -> bool:
    """Whether vmnet's bridge is up, as it is while a guest runs."""
    subnet = vpn.read_subnet(mac.vmnet)
    return any(
        interface.up and interface.name.startswith("bridge") and IPv4Address(address) in subnet
        for interface in vpn.read_interfaces(mac.programs)
        for address in interface.addresses
    )


def check_firewall(mac: Mac) -> Iterator[Finding]:
    """Whether the application firewall lets guests' DHCP requests through to bootpd (socketfilterfw(8))."""
    title = "firewall"
    state = mac.programs.run([_FIREWALL, "--getglobalstate"])
    number = re.search(r"\(State = (\d)\)", state.text)
    if state.code != 0 or number is None:
        yield Finding(title, "warning", f"its state is unknown: {state.reason}", f"sudo {_FIREWALL} --getglobalstate")
        return
    if number[1] == "0":
        yield Finding(title, "ok", "is off")
        return
    if number[1] == "2" or _blocks_all(mac):
        # It does for some and not for others (canonical/multipass#4049).
        seen = "blocks all incoming connections, and with them perhaps guests' DHCP requests; if they get no address:"
        yield Finding(title, "warning", seen, f"sudo {_FIREWALL} --setblockall off")
    listed = mac.programs.run([_FIREWALL, "--listapps"])
    rule = re.search(rf"{_BOOTPD}\s*\n\s*\(\s*(Allow|Block)", listed.out)
    if rule is not None and rule[1] == "Block":
        seen = "blocks bootpd, macOS's DHCP server: guests get no address"
        yield Finding(title, "problem", seen, _UNBLOCK_BOOTPD, XHYVE)
    elif rule is not None:
        yield Finding(title, "ok", "lets bootpd through")
    else:
        yield from _check_unlisted(mac)


def _blocks_all(mac: Mac) -> bool:
    said = mac.programs.run([_FIREWALL, "--getblockall"]).text
    return re.search(r"block all state set to enabled|Block all ENABLED|blocking all", said, re.IGNORECASE) is not None


def _check_unlisted(mac: Mac) -> Iterator[Finding]:
    """What the firewall does with bootpd when it has no rule for it: what it does with all of macOS's own programs."""
    title = "firewall"
    said = mac.programs.run([_FIREWALL, "--getallowsigned"]).text
    allowed = re.search(r"(?:built-in signed|signed built-in) software (?:is )?(ENABLED|DISABLED)", said, re.IGNORECASE)
    if allowed is not None and allowed[1].upper() == "DISABLED":
        seen = "does not know bootpd, and lets none of macOS's own programs through: guests get no address"
        yield Finding(title, "problem", seen, _UNBLOCK_BOOTPD, XHYVE)
    elif allowed is not None and (major_version(mac) or 0) >= SEQUOIA:
        # So minikube found it (kubernetes/minikube#20400).
        yield Finding(title, "ok", "lets macOS's own programs through, and so bootpd")
    else:
        # Before macOS 15 bootpd was blocked all the same (lima-vm/lima#1259).
        seen = "is on and has no rule for bootpd, which older releases of macOS then block; if guests get no address:"
        yield Finding(title, "warning", seen, _UNBLOCK_BOOTPD)


def check_leases(mac: Mac) -> Iterator[Finding]:
    """Whether bootpd has addresses left for guests."""
    subnet, now = vpn.read_subnet(mac.vmnet), mac.now()
    live = [lease.address for lease in read_leases(mac.leases) if lease.is_live(now)]
    taken = {address for address in live if IPv4Address(address) in subnet}
    free = POOL - len(taken)
    seen = f"{max(free, 0)} of {POOL} addresses are free"
    if free >= _FEW_ADDRESSES:
        yield Finding("DHCP leases", "ok", seen)
        return
    cure = f"sudo rm {mac.leases}\n{_RESTART_BOOTPD}"
    if free > 0:
        yield Finding("DHCP leases", "warning", f"{seen}; to have all of them, while no guest runs:", cure)
    else:
        yield Finding("DHCP leases", "problem", f"{seen}: guests get none; while no guest runs:", cure, XHYVE)


def check_vpn(mac: Mac) -> Iterator[Finding]:
    """Whether a VPN is up whose networks guests cannot reach."""
    tunnels = vpn.active_tunnels(vpn.read_interfaces(mac.programs))
    if not tunnels:
        yield Finding("VPN", "ok", "none is up")
        return
    translated = vpn.translated(mac.programs, mac.euid)
    missing = [tunnel for tunnel in tunnels if tunnel not in translated]
    if missing:
        seen = f"{', '.join(missing)} is up; guests may not reach what is behind it, or nothing at all"
        yield Finding("VPN", "warning", seen, "pytest-xhyve doctor --fix-vpn")
    else:
        yield Finding("VPN", "ok", f"guests reach what is behind {', '.join(tunnels)}")
