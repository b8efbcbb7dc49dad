"""The checks for a Mac."""

from __future__ import annotations

from pytest_xhyve.doctor.findings import Check
from pytest_xhyve.doctor.mac_host import Mac, check_file_system, check_processor, check_version, is_intel
from pytest_xhyve.doctor.mac_network import (
    check_bootpd,
    check_firewall,
    check_leases,
    check_local_network,
    check_vmnet,
    check_vpn,
)
from pytest_xhyve.doctor.mac_vfkit import check_vfkit, has_vfkit
from pytest_xhyve.doctor.mac_xhyve import check_xhyve

__all__ = [
    "Mac",
    "check_bootpd",
    "check_file_system",
    "check_firewall",
    "check_leases",
    "check_local_network",
    "check_processor",
    "check_version",
    "check_vfkit",
    "check_vmnet",
    "check_vpn",
    "check_xhyve",
    "checks",
]


def checks(mac: Mac) -> list[Check]:
    """All checks for *mac*; only a few if neither xhyve can run on its processor nor vfkit is installed."""
    general = [
        Check("processor", lambda: check_processor(mac)),
        Check("macOS", lambda: check_version(mac)),
        Check("file system", lambda: check_file_system(mac)),
    ]
    vfkit = Check("vfkit", lambda: check_vfkit(mac))
    if not is_intel(mac) and not has_vfkit(mac):
        return [*general, vfkit]
    return [
        *general,
        vfkit,
        *([Check("xhyve", lambda: check_xhyve(mac))] if is_intel(mac) else []),
        Check("vmnet", lambda: check_vmnet(mac)),
        Check("DHCP server", lambda: check_bootpd(mac)),
        Check("firewall", lambda: check_firewall(mac)),
        Check("DHCP leases", lambda: check_leases(mac)),
        Check("Local Network privacy", lambda: check_local_network(mac)),
        Check("VPN", lambda: check_vpn(mac)),
    ]
