"""A router with a firewall (nftables) between two networks, and a tunnel through it (WireGuard).

To copy: `lans=`, routes by `addresses`, a firewall's rules from the test, and a capture of what passes a network.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve import Guests

pytestmark = pytest.mark.xhyve_guests(
    client=None, router=None, server=None, lans={"front": ["client", "router"], "back": ["router", "server"]}
)

RULES = """\
flush ruleset
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ip daddr SERVER tcp dport 8000 accept
        ip daddr SERVER udp dport 51820 accept
        reject
    }
}
"""
TUNNEL = """\
[Interface]
PrivateKey = {private}
Address = {address}/24
ListenPort = 51820

[Peer]
PublicKey = {peer}
AllowedIPs = 10.9.0.0/24
Endpoint = {endpoint}:51820
PersistentKeepalive = 5
"""


@pytest.fixture(scope="session")
def xhyve_image() -> Path:
    """The image for all tests of this folder; it is built once."""
    return Path(__file__).parent / "with-wireguard"


@pytest.fixture(scope="module")
def network(xhyve_module_guests: Guests) -> Guests:
    """A client, a router with its rules, and a server with two services."""
    client, router, server = xhyve_module_guests
    router.put(RULES.replace("SERVER", server.address).encode(), "/etc/nftables.conf")
    router.run("sysctl -w net.ipv4.ip_forward=1 && nft -f /etc/nftables.conf")
    client.run(["ip", "route", "add", server.address, "via", router.addresses["front"]])
    server.run(["ip", "route", "add", client.address, "via", router.addresses["back"]])
    for guest, port in ((server, 8000), (server, 8001), (client, 8000)):
        guest.put(f"secret of {guest.name}\n".encode(), "/srv/secret")
        guest.run(f"systemd-run --unit=web-{port} python3 -m http.server {port} --directory /srv")
        guest.wait_for_port(port)
    return xhyve_module_guests


def test_only_one_port_is_open(network: Guests) -> None:
    assert network.client.run("curl -sS http://server:8000/secret").stdout == "secret of server\n"
    refused = network.client.run("curl -sS http://server:8001/secret", check=False)
    assert refused.returncode != 0
    assert "server port 8001" in refused.stderr


def test_server_reaches_nobody(network: Guests) -> None:
    assert network.server.run("curl -sS http://client:8000/secret", check=False).returncode != 0


def test_tunnel_hides_what_passes_the_router(network: Guests, tmp_path: Path) -> None:
    client, _, server = network
    ends = {client: "10.9.0.1", server: "10.9.0.2"}
    private = {guest: guest.run("wg genkey").stdout.strip() for guest in ends}
    public = {guest: guest.run("wg pubkey", input=key).stdout.strip() for guest, key in private.items()}
    for guest, other in ((client, server), (server, client)):
        settings = TUNNEL.format(
            private=private[guest], address=ends[guest], peer=public[other], endpoint=other.address
        )
        guest.put(settings.encode(), "/etc/wireguard/wg0.conf", mode=0o600)
        guest.run("wg-quick up wg0")
    client.wait_for("ping -c 1 -W 2 10.9.0.2")
    with network.capture(tmp_path / "plain.pcapng", lan="front") as plain:
        client.run("curl -sS http://server:8000/secret")
    with network.capture(tmp_path / "hidden.pcapng", lan="front") as hidden:
        # This port, the firewall does not let through; the tunnel does.
        assert client.run("curl -sS http://10.9.0.2:8001/secret").stdout == "secret of server\n"
    assert b"secret of server" in plain.read_bytes()
    assert b"secret of server" not in hidden.read_bytes()
