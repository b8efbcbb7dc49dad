"""What makes the network card of a guest get its address, whatever the disk was configured for."""

from __future__ import annotations

import re
import textwrap

from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.new_file import NewFile

# The kernel's name for the card, as the command line has net.ifnames=0. Names that udev gives depend on the slot of the
# card, so they differ between the machine that the disk comes from and a guest.
_CARD = "eth0"
# systemd.link(5): udev gives the card the name that the configuration of the disk expects.
_LINK = "etc/systemd/network/10-pytest-xhyve.link"
_LINK_TEXT = "[Match]\nDriver=virtio_net\n\n[Link]\nName={}\n"
_NETWORKD_TEXT = f"[Match]\nName={_CARD}\n\n[Network]\nDHCP=yes\n"
_INTERFACES_TEXT = f"\nallow-hotplug {_CARD}\niface {_CARD} inet dhcp\n"
# Netplan's format, which cloud-init takes too (network-config version 2).
_NETWORK_CONFIG = "version: 2\nethernets:\n  {}: {{dhcp4: true}}\n"
_NETPLAN_TEXT = "network:\n" + textwrap.indent(_NETWORK_CONFIG.format(_CARD), "  ")
_META_DATA = "instance-id: pytest-xhyve\n"
_USER_DATA = """\
#cloud-config
ssh_deletekeys: false
ssh_genkeytypes: []
disable_root: false
ssh_pwauth: false
preserve_hostname: true
growpart: {mode: "off"}
package_update: false
package_upgrade: false
"""
_SEED = "var/lib/cloud/seed/nocloud"


def plan_network(facts: Facts) -> tuple[NewFile, ...]:
    """The files that configure the guest's one network card by DHCP."""
    names = configured_names(facts)
    card = names[0] if names else _CARD
    files: list[NewFile] = []
    if card != _CARD:
        files.append(NewFile(_LINK, _LINK_TEXT.format(card).encode()))
    if facts.has_cloud_init:
        # A seed of the data source NoCloud, without which cloud-init waits for a cloud.
        files.append(NewFile(f"{_SEED}/meta-data", _META_DATA.encode()))
        files.append(NewFile(f"{_SEED}/user-data", _USER_DATA.encode(), 0o600))
        files.append(NewFile(f"{_SEED}/network-config", _NETWORK_CONFIG.format(card).encode()))
    elif not names:
        files += _configure_card(facts)
    return tuple(files)


def _configure_card(facts: Facts) -> list[NewFile]:
    """The files that configure a card by DHCP in a system that configures none."""
    if facts.has("usr/sbin/netplan"):
        return [NewFile("etc/netplan/90-pytest-xhyve.yaml", _NETPLAN_TEXT.encode(), 0o600)]
    if facts.has("usr/sbin/NetworkManager"):
        # It configures each card by DHCP that nothing else configures (NetworkManager.conf(5), no-auto-default).
        return []
    if facts.has("usr/sbin/ifup", "sbin/ifup"):
        return [NewFile("etc/network/interfaces", _INTERFACES_TEXT.encode(), append=True)]
    if facts.has("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"):
        return [NewFile("etc/systemd/network/90-pytest-xhyve.network", _NETWORKD_TEXT.encode())]
    return []


def configured_names(facts: Facts) -> tuple[str, ...]:
    """The names of Ethernet cards that the system's network configuration mentions."""
    found: list[str] = []
    for path in sorted(facts.files):
        text = facts.text(path)
        if path == "etc/network/interfaces" or path.startswith("etc/network/interfaces.d/"):
            found += re.findall(r"^\s*iface\s+(\S+)\s+inet\s", text, re.MULTILINE)
        elif path.startswith("etc/netplan/"):
            found += _netplan_names(text)
        elif path.startswith("etc/systemd/network/") and path.endswith(".network"):
            found += re.findall(r"^\s*Name=(\S+)\s*$", text, re.MULTILINE)
        elif path.startswith("etc/NetworkManager/system-connections/"):
            found += re.findall(r"^\s*interface-name=(\S+)\s*$", text, re.MULTILINE)
        elif match := re.fullmatch(r"etc/sysconfig/network-scripts/ifcfg-(\S+)", path):
            found.append(match[1])
    names = [name for name in dict.fromkeys(found) if name != "lo" and re.fullmatch(r"[A-Za-z][\w.-]{0,14}", name)]
    return tuple(names)


def _netplan_names(text: str) -> list[str]:
    import yaml  # noqa: PLC0415

    try:
        content = yaml.safe_load(text)
        cards = content["network"]["ethernets"]
    except (yaml.YAMLError, KeyError, TypeError):
        return []
    if not isinstance(cards, dict):
        return []
    # With match:, the key does not name a card.
    return [str(name) for name, card in cards.items() if not (isinstance(card, dict) and "match" in card)]
