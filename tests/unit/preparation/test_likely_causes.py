from __future__ import annotations

import re
from dataclasses import replace

import pytest
from facts import facts_of

from pytest_xhyve.preparation.likely_causes import likely_causes

SYSTEMD = "usr/lib/systemd/systemd"


@pytest.mark.parametrize(
    ("path", "text", "cause"),
    [
        ("etc/netplan/a.yaml", "eth0:\n  addresses:\n    - 10.1.1.1/24\n", "fixed address.*line 3"),
        (
            "etc/network/interfaces",
            "auto eth0\niface eth0 inet static\n",
            "fixed address.*/etc/network/interfaces, line 2",
        ),
        (
            "etc/network/interfaces.d/a",
            "iface eth0 inet dhcp\n hwaddress ether 52:54:00:12:34:56\n",
            "another Ethernet",
        ),
        ("etc/netplan/a.yaml", "network:\n  ethernets:\n    eth0:\n      addresses: [10.1.1.1/24]\n", "line 4"),
        ("etc/netplan/a.yaml", 'match:\n  macaddress: "52:54:00:12:34:56"\n', "another Ethernet address.*line 2"),
        ("etc/systemd/network/a.network", "[Match]\nMACAddress=52:54:00:12:34:56\n", "another Ethernet address"),
        ("etc/systemd/network/a.network", "[Network]\nAddress=10.1.1.1/24\n", "fixed address"),
        ("etc/sysconfig/network-scripts/ifcfg-eth0", "BOOTPROTO=none\nHWADDR=52:54:00:12:34:56\n", "fixed address"),
        ("etc/NetworkManager/system-connections/a", "[ipv4]\nmethod=manual\n", "fixed address.*line 2"),
        ("etc/network/interfaces", "iface ens3 inet dhcp\niface ens4 inet dhcp\n", "names 2 cards .ens3, ens4."),
        ("etc/selinux/config", "# SELINUX=disabled\nSELINUX=enforcing\n", "/etc/selinux/config, line 2"),
    ],
)
def test_line_is_named(path: str, text: str, cause: str) -> None:
    facts = facts_of(there=(SYSTEMD,), files={path: text.encode()})
    found = likely_causes(facts)
    assert any(re.search(cause, line) for line in found), found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/network/interfaces", "auto lo\niface lo inet static\n# iface eth0 inet static\niface eth0 inet dhcp\n"),
        ("etc/netplan/a.yaml", "network: {ethernets: {ens3: {dhcp4: true}}}\n"),
        ("etc/netplan/a.yaml", "nameservers:\n  addresses: [10.1.1.1]\n"),
        ("etc/systemd/network/a.network", "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n"),
        ("etc/selinux/config", "SELINUX=permissive\n"),
    ],
)
def test_what_is_as_usual_is_not_named(path: str, text: str) -> None:
    assert likely_causes(facts_of(there=(SYSTEMD,), files={path: text.encode()})) == ()


def test_kernel_without_an_initial_ram_disk() -> None:
    facts = facts_of(boot=("vmlinuz-6.1",))
    (cause,) = likely_causes(facts)
    assert "no initial RAM disk of /boot/vmlinuz-6.1 was found" in cause
    assert likely_causes(facts, {"initrd": "initrd.img"}) == ()
    assert likely_causes(facts_of(boot=("vmlinuz-6.1", "initrd.img-6.1"))) == ()


def test_card_that_nothing_renames() -> None:
    (cause,) = likely_causes(facts_of(files={"etc/network/interfaces": b"iface ens33 inet dhcp\n"}))
    assert "names the card ens33" in cause


def test_server_that_does_not_start() -> None:
    facts = facts_of(there=(SYSTEMD, "usr/sbin/sshd"))
    (cause,) = likely_causes(facts)
    assert "may not start at boot" in cause
    enabled = {**facts.values, "starts_ssh": ("etc/systemd/system/multi-user.target.wants/ssh.service",)}
    assert likely_causes(replace(facts, values=enabled)) == ()
