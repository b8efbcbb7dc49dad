"""Two web servers that share one address by VRRP (keepalived): the second takes it when the first is lost.

To copy: a service on the LAN with settings of its own in each guest, `kill`, `start`, `partition` and `heal`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve import Guest, Guests

pytestmark = pytest.mark.xhyve_guests(first=None, second=None, client="tiny")

# On the LAN, and no guest's own.
SHARED = "192.168.77.250"
SETTINGS = """\
vrrp_instance web {
    interface eth1
    state BACKUP
    virtual_router_id 51
    priority PRIORITY
    virtual_ipaddress {
        SHARED/24
    }
}
"""

WEB = b"""\
[Service]
ExecStart=/usr/bin/python3 -m http.server 80 --directory /srv
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The image of the servers; it is built once."""
    return Path(__file__).parent / "with-keepalived"


@pytest.fixture
def servers(xhyve_guests: Guests) -> Guests:
    """The guests; the first server has the shared address."""
    for guest, priority in ((xhyve_guests.first, "150"), (xhyve_guests.second, "100")):
        settings = SETTINGS.replace("PRIORITY", priority).replace("SHARED", SHARED)
        guest.put(settings.encode(), "/etc/keepalived/keepalived.conf")
        guest.put(f"{guest.name}\n".encode(), "/srv/name")
        guest.put(WEB, "/etc/systemd/system/web.service")
        guest.run("systemctl enable --now web keepalived && sync")
    wait_for_answer(xhyve_guests.client, "first")
    return xhyve_guests


def wait_for_answer(client: Guest, name: str) -> None:
    """Wait until the server *name* answers at the shared address."""
    client.wait_for(f"timeout 5 wget -qO - http://{SHARED}/name | grep -qx {name}", timeout=120)


def has_address(server: Guest) -> bool:
    """Whether *server* has the shared address."""
    return SHARED in server.run("ip address show dev eth1").stdout


def test_second_takes_over_and_the_first_comes_back(servers: Guests) -> None:
    servers.first.kill()
    wait_for_answer(servers.client, "second")
    servers.first.start()
    wait_for_answer(servers.client, "first")
    servers.second.wait_for(f"! ip address show dev eth1 | grep -F {SHARED}")


def test_each_is_master_while_they_do_not_hear_each_other(servers: Guests) -> None:
    assert not has_address(servers.second)
    servers.partition(["first"], ["second"])
    servers.second.wait_for(f"ip address show dev eth1 | grep -F {SHARED}", timeout=120)
    assert has_address(servers.first)
    servers.heal()
    servers.second.wait_for(f"! ip address show dev eth1 | grep -F {SHARED}", timeout=120)
    assert has_address(servers.first)
