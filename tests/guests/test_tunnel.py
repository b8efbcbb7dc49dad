"""Services that the guest serves to itself only."""

from __future__ import annotations

import contextlib
import socket
from urllib.request import urlopen

import pytest

from pytest_xhyve import ConfigurationError, Guest

pytestmark = [pytest.mark.xhyve(image="tiny"), pytest.mark.run_under("warm")]


def test_service_on_the_guests_loopback_interface(xhyve_guest: Guest) -> None:
    xhyve_guest.put(b"x" * 100_000, "/tmp/page")
    xhyve_guest.run("httpd -p 127.0.0.1:7001 -h /tmp")
    xhyve_guest.wait_for_port(7001)
    place = xhyve_guest.forward(7001)
    assert place == xhyve_guest.forward(7001)
    for _ in range(2):
        with urlopen(f"http://{place[0]}:{place[1]}/page", timeout=20) as answer:
            assert answer.read() == b"x" * 100_000
    xhyve_guest.kill()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(place, timeout=5)


ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 7002))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""


# tiny has no program that serves UDP.
@pytest.mark.xhyve(image="debian12")
def test_service_of_udp(xhyve_guest: Guest) -> None:
    xhyve_guest.put(ECHO.encode(), "/tmp/echo.py")
    xhyve_guest.run("python3 /tmp/echo.py >/dev/null 2>&1 </dev/null &")
    place = xhyve_guest.forward(7002, protocol="udp")
    assert place == xhyve_guest.forward(7002, protocol="udp")
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect(place)
        for _ in range(20):
            # The program may not listen yet, and the network tells nobody.
            client.send(b"hello")
            with contextlib.suppress(TimeoutError):
                assert client.recv(100) == b"hello"
                break
        else:
            pytest.fail("no answer")


@pytest.mark.parametrize("port", [0, -1, 65536, True, "22", 2.0])
def test_invalid_port(xhyve_guest: Guest, port: int) -> None:
    with pytest.raises(ConfigurationError, match="is not a port; give a number from 1 to 65535"):
        xhyve_guest.forward(port)


def test_invalid_protocol(xhyve_guest: Guest) -> None:
    with pytest.raises(ConfigurationError, match="'sctp' is not one of tcp, udp"):
        xhyve_guest.forward(22, protocol="sctp")  # type: ignore[arg-type]
