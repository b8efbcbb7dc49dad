"""What makes the network card of a guest get its address, whatever the disk was configured for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping

from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.new_file import NewFile
from pytest_xhyve.preparation.seed import plan_seed

# The kernel's name for the card, as the command line has net.ifnames=0. Names that udev gives depend on the slot of the
# card, so they differ between the machine that the disk comes from and a guest.
CARD = "eth0"
"""The name of the network card in guests, unless the configuration of the disk expects another one."""

# systemd.link(5): udev gives the card the name that the configuration of the disk expects. The card is known by its
# place on the bus, for its name is not the kernel's if the disk's own initial RAM disk has renamed it before. The cards
# of LANs have higher places.
_LINK = "etc/systemd/network/10-pytest-xhyve.link"
_LINK_TEXT = "[Match]\nDriver=virtio_net\nPath=*pci-0000:00:0?.0\n\n[Link]\nName={}\n"
_NETWORKD_TEXT = f"[Match]\nName={CARD}\n\n[Network]\nDHCP=yes\n"
_INTERFACES_TEXT = f"\nallow-hotplug {CARD}\niface {CARD} inet dhcp\n"
# Netplan's format, which cloud-init takes too (network-config version 2).
_NETWORK_CONFIG = "version: 2\nethernets:\n  {}: {{dhcp4: true}}\n"
_NETPLAN_TEXT = "network:\n" + textwrap.indent(_NETWORK_CONFIG.format(CARD), "  ")


def plan_network(facts: Facts, seed: Mapping[str, bytes] | None = None) -> tuple[NewFile, ...]:
    """The files that configure the guest's network card by DHCP, but not its cards of LANs.

    Args:
        facts: what was found on the disk.
        seed: the user's own data for cloud-init, by the names of its files; None for the plugin's.
    """
    own = (seed or {}).get("network-config")
    names = configured_names(facts) if own is None else _ethernet_names(_netplan_names(own.decode("utf-8", "replace")))
    card = names[0] if names else CARD
    # Also for the kernel's own name, which a guest that boots by the disk's boot loader might not have.
    files = [NewFile(_LINK, _LINK_TEXT.format(card).encode())] if facts.has_systemd else []
    if facts.has_cloud_init:
        files += plan_seed(seed, _NETWORK_CONFIG.format(card))
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
    return _ethernet_names(found)


def _ethernet_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name != "lo" and re.fullmatch(r"[A-Za-z][\w.-]{0,14}", name))


def _netplan_names(text: str) -> list[str]:
    import yaml  # noqa: PLC0415

    from pytest_xhyve.formats.yaml_text import load_foreign  # noqa: PLC0415

    try:
        content = load_foreign(text)
        # In cloud-init's network-config, the outer key may be missing.
        cards = content.get("network", content)["ethernets"]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return []
    if not isinstance(cards, dict):
        return []
    # With match:, the key does not name a card.
    return [str(name) for name, card in cards.items() if not (isinstance(card, dict) and "match" in card)]
