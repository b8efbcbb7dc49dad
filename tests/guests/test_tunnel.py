"""Services that the guest serves to itself only."""

from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest

from pytest_xhyve import Guest

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
