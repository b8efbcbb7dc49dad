"""A cluster on the one network that a hypervisor has for all guests, as vmnet is for those of xhyve.

Its DHCP server gives the addresses, so the names can be set only when all guests run. It gives a guest the same address
again after each restart, as the guest's Ethernet address stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_xhyve.guest.lans import GuestLans
from pytest_xhyve.model.lan import common_places

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.model.lan import LanPlace


def join_common_network(guests: Mapping[str, Guest], lan: str) -> None:
    """Let each of *guests* find the others by name, now and after each restart.

    Args:
        guests: running guests, by their names.
        lan: the name of their LAN.

    Raises:
        XhyveError: a guest refused its names.
    """
    places = common_places(lan, {name: guest.host for name, guest in guests.items()})

    def join(guest: Guest, name: str, place: LanPlace) -> None:
        guest._instance = replace(guest._instance, lans=GuestLans(name, place))
        guest._set_up(True)

    with ThreadPoolExecutor(len(guests), "xhyve-network") as pool:
        joining = [pool.submit(join, guest, name, places[name]) for name, guest in guests.items()]
    for each in joining:
        each.result()
