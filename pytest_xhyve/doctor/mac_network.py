"""Checks for the network of guests on a Mac: vmnet, the DHCP server, the firewall, VPNs.

The output of macOS's programs is known from their manual pages and from published examples; nothing of it was run on a
Mac of this project. If a check cannot parse an output, it gives a warning with the command, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from pytest_xhyve.doctor import vpn
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.doctor.mac_host import SEQUOIA, TAHOE, VMNET, Mac, major_version
from pytest_xhyve.host.leases import POOL, read_leases
from pytest_xhyve.model.errors import XhyveError

_FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
_BOOTPD = "/usr/libexec/bootpd"
_RESTART_BOOTPD = "sudo launchctl kickstart -kp system/com.apple.bootpd"
_UNBLOCK_BOOTPD = f"sudo {_FIREWALL} --add {_BOOTPD}\nsudo {_FIREWALL} --unblock {_BOOTPD}"
# Fewer free addresses than this are soon used up: each new guest may take one for a day.
_FEW_ADDRESSES = 25


def check_vmnet(mac: Mac) -> Iterator[Finding]:
    """Check that vmnet's settings are readable, and report the guests' network."""
    interfaces = vpn.read_interfaces(mac.programs)
    bridge = vpn.find_bridge(interfaces)
    try:
        subnet = vpn.find_subnet(interfaces, mac.vmnet)
    except XhyveError as error:
        fix = f"sudo plutil -p {mac.vmnet}\nsudo rm {mac.vmnet}"
        detail = f"cannot read its settings: {error}; remove them, and vmnet creates them again:"
        yield Finding("vmnet", "warning", detail, fix)
        return
    clash = vpn.find_clash(interfaces, subnet)
    if clash is not None:
        interface, network = clash
        detail = (
            f"the guests' network {subnet} overlaps {network}, which this Mac has on {interface.name}: connections to "
            "guests may go there; "
        )
        if (major_version(mac) or 0) >= TAHOE:
            detail += "macOS 26 selects the guests' network itself, so leave the other one:"
            fix = f"ifconfig {interface.name}"
        else:
            detail += "leave that network, or give vmnet another one while no guest runs:"
            fix = f"sudo defaults write {mac.vmnet.with_suffix('')} Shared_Net_Address 192.168.{_other(subnet)}.1"
        yield Finding("vmnet", "warning", detail, fix)
    elif bridge is not None:
        yield Finding("vmnet", "ok", f"guests are in {subnet} ({bridge.name})")
    elif (major_version(mac) or 0) >= TAHOE:
        yield Finding("vmnet", "ok", "no guest runs; macOS 26 selects the guests' network at the start of the first")
    elif mac.vmnet.exists():
        yield Finding("vmnet", "ok", f"guests are in {subnet}")
    else:
        yield Finding("vmnet", "ok", f"not used on this Mac yet; guests will be in {subnet}")


def _other(subnet: IPv4Network) -> int:
    """The third octet of a network that is not *subnet*."""
    third = int(subnet.network_address) >> 8 & 0xFF
    return 64 if third < 64 else 180


def check_bootpd(mac: Mac) -> Iterator[Finding]:
    """Check that launchd may start bootpd, the DHCP server for guests."""
    answer = mac.programs.run(["/bin/launchctl", "print-disabled", "system"])
    if answer.code != 0:
        detail = f"cannot find out whether launchd has disabled it: {answer.reason}"
        yield Finding("DHCP server", "warning", detail, "sudo launchctl print-disabled system")
        return
    # "=> true" until macOS 12, "=> disabled" since (usnistgov/macos_security#167).
    if re.search(r'"com\.apple\.bootpd" => (?:true|disabled)', answer.out) is None:
        yield Finding("DHCP server", "ok", "bootpd is not disabled")
        return
    fix = f"sudo launchctl enable system/com.apple.bootpd\n{_RESTART_BOOTPD}"
    if _is_sharing(mac):
        detail = "launchd has disabled bootpd while vmnet is in use: guests get no address"
        yield Finding("DHCP server", "problem", detail, fix, VMNET)
    else:
        # This is usual (the plist in fleetdm/fleet#9619); whether vmnet then enables bootpd is not documented.
        detail = "launchd has disabled bootpd, which is usual while no guest runs; if guests get no address:"
        yield Finding("DHCP server", "warning", detail, fix)


def _is_sharing(mac: Mac) -> bool:
    """Whether vmnet's bridge is up, which means that a guest runs."""
    return vpn.find_bridge(vpn.read_interfaces(mac.programs)) is not None


def check_firewall(mac: Mac) -> Iterator[Finding]:
    """Check that the application firewall permits guests' DHCP requests to bootpd (socketfilterfw(8))."""
    title = "firewall"
    state = mac.programs.run([_FIREWALL, "--getglobalstate"])
    number = re.search(r"\(State = (\d)\)", state.text)
    if state.code != 0 or number is None:
        yield Finding(title, "warning", f"the state is unknown: {state.reason}", f"sudo {_FIREWALL} --getglobalstate")
        return
    if number[1] == "0":
        yield Finding(title, "ok", "off")
        return
    if number[1] == "2" or _blocks_all(mac):
        # On some Macs this blocks DHCP, on others it does not (canonical/multipass#4049).
        detail = "it blocks all incoming connections, perhaps also guests' DHCP requests; if guests get no address:"
        yield Finding(title, "warning", detail, f"sudo {_FIREWALL} --setblockall off")
    listed = mac.programs.run([_FIREWALL, "--listapps"])
    rule = re.search(rf"{_BOOTPD}\s*\n\s*\(\s*(Allow|Block)", listed.out)
    if rule is not None and rule[1] == "Block":
        detail = "it blocks bootpd, macOS's DHCP server: guests get no address"
        yield Finding(title, "problem", detail, _UNBLOCK_BOOTPD, VMNET)
    elif rule is not None:
        yield Finding(title, "ok", "it permits bootpd")
    else:
        yield from _check_unlisted(mac)


def _blocks_all(mac: Mac) -> bool:
    output = mac.programs.run([_FIREWALL, "--getblockall"]).text
    return (
        re.search(r"block all state set to enabled|Block all ENABLED|blocking all", output, re.IGNORECASE) is not None
    )


def _check_unlisted(mac: Mac) -> Iterator[Finding]:
    """Check the firewall if it has no rule for bootpd: then its rule for all of macOS's own programs applies."""
    title = "firewall"
    output = mac.programs.run([_FIREWALL, "--getallowsigned"]).text
    allowed = re.search(
        r"(?:built-in signed|signed built-in) software (?:is )?(ENABLED|DISABLED)", output, re.IGNORECASE
    )
    if allowed is not None and allowed[1].upper() == "DISABLED":
        detail = "it has no rule for bootpd, and blocks macOS's own programs: guests get no address"
        yield Finding(title, "problem", detail, _UNBLOCK_BOOTPD, VMNET)
    elif allowed is not None and (major_version(mac) or 0) >= SEQUOIA:
        # minikube observed this (kubernetes/minikube#20400).
        yield Finding(title, "ok", "it permits macOS's own programs, and so bootpd")
    else:
        # Before macOS 15, the firewall blocked bootpd even then (lima-vm/lima#1259).
        detail = "it has no rule for bootpd, and older releases of macOS then block bootpd; if guests get no address:"
        yield Finding(title, "warning", detail, _UNBLOCK_BOOTPD)


def check_leases(mac: Mac) -> Iterator[Finding]:
    """Check that bootpd has free addresses for guests."""
    subnet, now = vpn.find_subnet(vpn.read_interfaces(mac.programs), mac.vmnet), mac.now()
    live = [lease.address for lease in read_leases(mac.leases) if lease.is_live(now)]
    taken = {address for address in live if IPv4Address(address) in subnet}
    free = POOL - len(taken)
    detail = f"{max(free, 0)} of {POOL} addresses are free"
    if free >= _FEW_ADDRESSES:
        yield Finding("DHCP leases", "ok", detail)
        return
    fix = f"sudo rm {mac.leases}\n{_RESTART_BOOTPD}"
    if free > 0:
        yield Finding("DHCP leases", "warning", f"{detail}; to free all of them, stop all guests, then:", fix)
    else:
        yield Finding("DHCP leases", "problem", f"{detail}: guests get no address; stop all guests, then:", fix, VMNET)


def check_local_network(mac: Mac) -> Iterator[Finding]:
    """State that macOS 15 and later ask for a permission, which no program can read."""
    title = "Local Network privacy"
    if (major_version(mac) or SEQUOIA) < SEQUOIA:
        yield Finding(title, "ok", "this macOS has none")
    elif mac.euid == 0:
        yield Finding(title, "ok", "root needs no permission")
    else:
        yield Finding(
            title,
            "ok",
            "macOS asks once whether the application that runs pytest may connect to guests; if it may not, errors "
            'contain "no route to host": System Settings > Privacy & Security > Local Network',
        )


def check_vpn(mac: Mac) -> Iterator[Finding]:
    """Check that guests can reach the networks of each VPN."""
    tunnels = vpn.active_tunnels(vpn.read_interfaces(mac.programs))
    if not tunnels:
        yield Finding("VPN", "ok", "no VPN is connected")
        return
    translated = vpn.translated(mac.programs, mac.euid)
    missing = [tunnel for tunnel in tunnels if tunnel not in translated]
    if missing:
        detail = f"{', '.join(missing)} is up; guests may not reach its networks, or no network at all"
        yield Finding("VPN", "warning", detail, "pytest-xhyve doctor --fix-vpn")
    else:
        yield Finding("VPN", "ok", f"guests reach the networks behind {', '.join(tunnels)}")
