"""A service of one's own: its unit is installed, started, talked to from the host, and has to survive a crash.

To copy: a fixture that makes a shared guest ready, `put`, `wait_for_unit`, `wait_for_port`, `wait_for` and `forward`.
"""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

from pytest_xhyve import Guest

UNIT = Path(__file__).with_name("hello.service")
PORT = 8000


@pytest.fixture(scope="module")
def service(xhyve_module_guest: Guest) -> Guest:
    """A guest in which the service runs."""
    guest = xhyve_module_guest
    guest.put(UNIT, "/etc/systemd/system/hello.service")
    guest.run("mkdir /srv/hello && echo hello > /srv/hello/index.html")
    guest.run("systemctl daemon-reload && systemctl start hello")
    guest.wait_for_unit("hello")
    guest.wait_for_port(PORT)
    return guest


def ask(guest: Guest) -> bytes:
    """What the service answers, asked from outside of the guest."""
    host, port = guest.forward(PORT)
    with urlopen(f"http://{host}:{port}/", timeout=30) as answer:
        content: bytes = answer.read()
    return content


def test_answers(service: Guest) -> None:
    assert ask(service) == b"hello\n"


def test_comes_back_when_it_has_crashed(service: Guest) -> None:
    service.run("systemctl kill --signal=SEGV hello")
    service.wait_for("test $(systemctl show --property=NRestarts --value hello) = 1")
    service.wait_for_port(PORT)
    assert ask(service) == b"hello\n"
