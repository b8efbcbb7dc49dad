"""Guests whose network manager takes every card: it leaves those of the LANs alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chosen import Chosen

from pytest_xhyve import GuestFactory, Guests, Image, ImageBuilder

pytestmark = [pytest.mark.run_under("qemu", "warm"), pytest.mark.thorough, pytest.mark.timeout(1500)]

NETWORKD = (
    # The image's own DHCP client would hide what the manager does.
    "rm -f /etc/systemd/system/*.target.wants/dhcp.service",
    "printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' > /etc/systemd/network/all.network",
    "systemctl enable systemd-networkd",
)


@pytest.fixture
def image(xhyve_images: ImageBuilder) -> Image:
    return xhyve_images.build(extends="debian12", run=NETWORKD, name="networkd")


@pytest.fixture
def guests(image: Image, xhyve_guest_factory: GuestFactory, hypervisor: Chosen) -> Iterator[Guests]:
    start = "cold" if hypervisor.start == "cold" else "warm"
    node = {"image": image, "start": start, "network": "nat"}
    with xhyve_guest_factory.cluster(a=node, b=node) as guests:
        yield guests


def see_lan(guests: Guests) -> None:
    """Each guest has its address, reaches the others, and its manager leaves the card alone."""
    for guest, done in zip(guests, guests.run_all("ip -brief -4 address show dev eth1").values(), strict=True):
        assert done.stdout.split()[2:] == [f"{guest.address}/24"]
    for done in guests.run_all("networkctl list --no-legend | grep eth1").values():
        assert "unmanaged" in done.stdout
    guests.a.run("ping -c 1 -W 10 b")
    # The manager has the other card.
    guests.a.wait_for("ip -brief -4 address show dev eth0 | grep -F 10.0.2.")


def test_lan_keeps_its_address(guests: Guests) -> None:
    see_lan(guests)
    # A manager sets up a card anew whose cable was pulled.
    guests.b.link_down()
    guests.b.wait_for("test $(cat /sys/class/net/eth1/carrier) = 0")
    guests.b.link_up()
    guests.b.wait_for("test $(cat /sys/class/net/eth1/carrier) = 1")
    see_lan(guests)
    guests.b.reboot()
    see_lan(guests)
