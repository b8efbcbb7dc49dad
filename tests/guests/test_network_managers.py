"""Guests whose network manager takes every card: it leaves those of the LANs alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from chosen import Chosen

from pytest_xhyve import GuestFactory, Guests, ImageBuilder

# The packages come from Debian's mirror.
pytestmark = [pytest.mark.run_under("qemu", "warm"), pytest.mark.thorough, pytest.mark.timeout(1500)]

# The image's own DHCP client would hide what the manager does.
WITHOUT_DHCP = "rm -f /etc/systemd/system/*.target.wants/dhcp.service"


@dataclass(frozen=True)
class Manager:
    """A network manager.

    Attributes:
        name: its name.
        cards: a command that lists the cards, with the state of each.
        run: commands that make it take every card.
        packages: Debian's packages with it.
    """

    name: str
    cards: str
    run: tuple[str, ...]
    packages: list[str] = field(default_factory=list)


MANAGERS = (
    Manager(
        "networkd",
        "networkctl list --no-legend",
        (
            WITHOUT_DHCP,
            "printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/all.network",
            "systemctl enable systemd-networkd",
        ),
    ),
    Manager("NetworkManager", "nmcli device", (WITHOUT_DHCP,), ["network-manager"]),
)


@pytest.fixture(params=MANAGERS, ids=lambda manager: manager.name)
def manager(request: pytest.FixtureRequest) -> Manager:
    each: Manager = request.param
    return each


@pytest.fixture
def guests(
    manager: Manager, xhyve_images: ImageBuilder, xhyve_guest_factory: GuestFactory, hypervisor: Chosen
) -> Iterator[Guests]:
    image = xhyve_images.build(
        extends="debian12", packages=manager.packages, run=manager.run, name=manager.name.lower()
    )
    start = "cold" if hypervisor.start == "cold" else "warm"
    node = {"image": image, "start": start, "network": "nat"}
    with xhyve_guest_factory.cluster(a=node, b=node) as guests:
        yield guests


def see_lan(guests: Guests, manager: Manager) -> None:
    """Each guest has its address, reaches the others, and its manager leaves the card alone."""
    for guest, done in zip(guests, guests.run_all("ip -brief -4 address show dev eth1").values(), strict=True):
        assert done.stdout.split()[2:] == [f"{guest.address}/24"]
    for done in guests.run_all(f"{manager.cards} | grep eth1").values():
        assert "unmanaged" in done.stdout
    guests.a.run("ping -c 1 -W 10 b")
    # The manager has the other card.
    guests.a.wait_for("ip -brief -4 address show dev eth0 | grep -F 10.0.2.")
    assert "unmanaged" not in guests.a.run(f"{manager.cards} | grep eth0").stdout


def test_lan_keeps_its_address(guests: Guests, manager: Manager) -> None:
    see_lan(guests, manager)
    # A manager sets up a card anew whose cable was pulled.
    guests.b.link_down()
    guests.b.wait_for("test $(cat /sys/class/net/eth1/carrier) = 0")
    guests.b.link_up()
    guests.b.wait_for("test $(cat /sys/class/net/eth1/carrier) = 1")
    see_lan(guests, manager)
    guests.b.reboot()
    see_lan(guests, manager)
    # It reads its settings again.
    guests.b.run(f"systemctl restart {'systemd-' if manager.name == 'networkd' else ''}{manager.name}", timeout=120)
    see_lan(guests, manager)
