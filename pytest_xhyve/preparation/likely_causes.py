"""What on a disk is likely to keep a guest from booting or answering, for the error if that happens.

None of it is sure: a system may overcome each of these. So none is an error of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.text import printable
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.kernel import choose_kernel
from pytest_xhyve.preparation.network import CARD, configured_names

_NETWORKS = re.compile(
    r"etc/(network/interfaces(\.d/.*)?|netplan/.*\.ya?ml|systemd/network/.*\.network|"
    r"NetworkManager/system-connections/.*|sysconfig/network-scripts/ifcfg-.*)"
)
_MAC = r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}"
_BOUND_TO_A_CARD = re.compile(
    rf"\s*(?:hwaddress\s+(?:ether\s+)?|macaddress:\s*|MACAddress\s*=\s*|PermanentMACAddress\s*=\s*|mac-address\s*=\s*|"
    rf"HWADDR\s*=\s*)[\"']?{_MAC}",
    re.IGNORECASE,
)
_STATIC_ADDRESS = re.compile(
    r"\s*(?:iface\s+(?!lo\b)\S+\s+inet\s+static\b|addresses:\s*\[[^\]]*/|-\s*[\"']?[\d.]+/\d+\b|Address\s*=|BOOTPROTO\s*=\s*[\"']?(?:none|static)\b|"
    r"method\s*=\s*manual\b)",
    re.IGNORECASE,
)


def likely_causes(facts: Facts, stated: Collection[str] = ()) -> tuple[str, ...]:
    """Each likely cause in a line, with the file and the line of the disk that it is in.

    Args:
        facts: what is on the disk.
        stated: the keys that the disk's manifest states.
    """
    causes = [*_copy_causes(facts), *_network_causes(facts), *_ssh_causes(facts), *_security_causes(facts)]
    if "kernel" not in stated and "initrd" not in stated:
        causes += _kernel_causes(facts)
    return tuple(printable(cause) for cause in causes)


def _copy_causes(facts: Facts) -> Iterator[str]:
    for volume in facts.dirty:
        yield (
            f"the file system of {volume} was not unmounted cleanly, so files may be incomplete: shut the machine down "
            "before you copy its disk"
        )


def _kernel_causes(facts: Facts) -> Iterator[str]:
    try:
        boot = choose_kernel(facts)
    except ImageError:
        # Without a kernel, the disk boots by its boot loader.
        return
    if boot.initrd is None:
        yield (
            f"no initial RAM disk of /{boot.kernel} was found in /boot, so the kernel itself needs the drivers of a "
            "virtio disk and of the root file system; state the file that belongs to it in a manifest (`initrd:`)"
        )


def _network_causes(facts: Facts) -> Iterator[str]:
    for path in sorted(facts.files):
        if not _NETWORKS.fullmatch(path) or path.endswith("pytest-xhyve.network"):
            continue
        for number, line in enumerate(facts.text(path).splitlines(), start=1):
            if _BOUND_TO_A_CARD.match(line):
                yield f"the network configuration is for a card with another Ethernet address: /{path}, line {number}"
            elif _STATIC_ADDRESS.match(line):
                yield f"the network card has a fixed address, and guests get theirs by DHCP: /{path}, line {number}"
    names = configured_names(facts)
    if names and CARD not in names and not facts.has_systemd:
        yield (
            f"the network configuration names the card {names[0]}, which is called {CARD} in a guest, and this system "
            "has no udev that renames it"
        )
    elif len(names) > 1:
        cards = ", ".join(names)
        yield f"the network configuration names {len(names)} cards ({cards}), and a guest has only {names[0]}"


def _ssh_causes(facts: Facts) -> Iterator[str]:
    if facts.has_systemd and facts.ssh_server and not facts.values.get("starts_ssh"):
        yield (
            "the SSH server may not start at boot: no unit of it is enabled in /etc/systemd/system "
            "(`systemctl enable ssh` or `sshd`)"
        )


def _security_causes(facts: Facts) -> Iterator[str]:
    if facts.selinux_mode != "enforcing":
        return
    config = facts.text("etc/selinux/config")
    match = re.search(r"^[ \t]*SELINUX[ \t]*=", config, re.MULTILINE)
    number = config.count("\n", 0, match.start()) + 1 if match is not None else 0
    reason = "its policy may refuse the login"
    if not facts.selinux_policy:
        reason = "the files that the plugin adds have no label, since this system has no setfiles"
    yield f"SELinux is enforced, and {reason}: /etc/selinux/config, line {number} (set it to permissive)"
