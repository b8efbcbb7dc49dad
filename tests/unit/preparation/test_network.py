from __future__ import annotations

import re
from fnmatch import fnmatchcase as fnmatch

import pytest
from facts import facts_of

from pytest_xhyve.hypervisors.qemu.devices import LAN_SLOT
from pytest_xhyve.preparation.network import configured_names, plan_network

SYSTEMD = "usr/lib/systemd/systemd"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/network/interfaces", "auto lo\niface lo inet loopback\n\nallow-hotplug ens33\niface ens33 inet dhcp\n"),
        ("etc/netplan/50-installer.yaml", "network:\n  ethernets:\n    ens33: {dhcp4: true}\n"),
        ("etc/systemd/network/a.network", "[Match]\nName=ens33\n\n[Network]\nDHCP=yes\n"),
        ("etc/NetworkManager/system-connections/a.nmconnection", "[connection]\ninterface-name=ens33\n"),
        ("etc/sysconfig/network-scripts/ifcfg-ens33", "BOOTPROTO=dhcp\n"),
    ],
)
def test_card_gets_the_name_that_is_configured(path: str, text: str) -> None:
    facts = facts_of(there=(SYSTEMD,), files={path: text.encode()})
    assert configured_names(facts) == ("ens33",)
    (link,) = plan_network(facts)
    assert link.path == "etc/systemd/network/10-pytest-xhyve.link"
    assert b"\nName=ens33\n" in link.content
    # Only the first card, whatever it is called before, and not that of a LAN.
    (places,) = re.findall(r"^Path=(.*)$", link.content.decode(), re.MULTILINE)
    assert fnmatch(f"pci-0000:00:{0x03:02x}.0", places)
    assert not any(fnmatch(f"pci-0000:00:{LAN_SLOT + number:02x}.0", places) for number in range(4))


@pytest.mark.parametrize(
    "text",
    [
        "network: [",
        "network: {ethernets: 5}",
        "5",
        "network: {ethernets: {any: {match: {name: e*}}}}",
        # The disk is another person's.
        pytest.param("[" * (1 << 20), id="deep"),
        "network: {ethernets: {any: 2001-99-99}}",
        pytest.param(
            "l0: &l0 {a: 1}\n" + "".join(f"l{n}: &l{n} {{<<: [*l{n - 1}, *l{n - 1}]}}\n" for n in range(1, 40)),
            id="exponential",
        ),
    ],
)
def test_netplan_that_names_no_card(text: str) -> None:
    assert configured_names(facts_of(files={"etc/netplan/a.yaml": text.encode()})) == ()


def test_cloud_image_gets_a_seed() -> None:
    files = {file.path: file for file in plan_network(facts_of(there=(SYSTEMD, "usr/bin/cloud-init")))}
    assert set(files) == {
        "etc/systemd/network/10-pytest-xhyve.link",
        "etc/cloud/cloud.cfg.d/99-pytest-xhyve.cfg",
        *(f"var/lib/cloud/seed/nocloud/{name}" for name in ("meta-data", "user-data", "network-config")),
    }
    assert b"ssh_deletekeys: false" in files["var/lib/cloud/seed/nocloud/user-data"].content


@pytest.mark.parametrize(
    ("program", "path"),
    [
        ("usr/sbin/netplan", "etc/netplan/90-pytest-xhyve.yaml"),
        ("usr/sbin/ifup", "etc/network/interfaces"),
        ("usr/lib/systemd/systemd-networkd", "etc/systemd/network/90-pytest-xhyve.network"),
    ],
)
def test_system_without_a_configuration_gets_one(program: str, path: str) -> None:
    assert path in [file.path for file in plan_network(facts_of(there=(SYSTEMD, program)))]


def test_card_of_the_users_network_config() -> None:
    seed = {"user-data": b"", "network-config": b"version: 2\nethernets: {ens7: {dhcp4: true}}\n"}
    files = {file.path: file for file in plan_network(facts_of(there=(SYSTEMD, "usr/bin/cloud-init")), seed)}
    assert b"\nName=ens7\n" in files["etc/systemd/network/10-pytest-xhyve.link"].content
    assert files["var/lib/cloud/seed/nocloud/network-config"].content == seed["network-config"]
