"""The addresses and names of guests on LANs."""

from __future__ import annotations

from uuid import UUID, uuid4

from pytest_xhyve.model.lan import common_places, lan_places
from pytest_xhyve.model.machine import MAX_LANS, lan_mac


def test_guests_of_one_lan() -> None:
    places = lan_places(["server", "client"], {"lan": ("server", "client")})
    assert [str(card.address) for card in places["client"].cards] == ["192.168.77.2/24"]
    assert (
        places["client"].hosts
        == places["server"].hosts
        == ("192.168.77.1 server server.lan\n192.168.77.2 client client.lan\n")
    )


def test_each_guest_calls_a_router_by_the_lan_that_they_share() -> None:
    places = lan_places(["a", "router", "b"], {"front": ("a", "router"), "back": ("router", "b")})
    assert [(card.lan, str(card.address)) for card in places["router"].cards] == [
        ("front", "192.168.77.2/24"),
        ("back", "192.168.78.2/24"),
    ]
    assert places["a"].hosts.splitlines() == [
        "192.168.77.1 a a.front",
        "192.168.77.2 router router.front",
        "192.168.78.2 router.back",
        # Behind the router.
        "192.168.78.3 b b.back",
    ]
    assert "192.168.78.2 router router.back" in places["b"].hosts.splitlines()


def test_cards_have_addresses_of_their_own() -> None:
    macs = {lan_mac(uuid, number) for uuid in (UUID(int=0), uuid4(), uuid4()) for number in range(MAX_LANS)}
    assert len(macs) == 3 * MAX_LANS
    # Locally administered, and unicast (RFC 7042, section 2.1).
    assert all(int(mac[:2], 16) & 0b11 == 0b10 for mac in macs)


def test_common_network_has_given_addresses() -> None:
    places = common_places("lan", {"server": "192.168.64.7", "client": "192.168.64.3"})
    assert places["server"].hosts == places["client"].hosts
    assert places["client"].hosts == "192.168.64.7 server server.lan\n192.168.64.3 client client.lan\n"
    (card,) = places["client"].cards
    assert (card.lan, str(card.address.ip)) == ("lan", "192.168.64.3")
