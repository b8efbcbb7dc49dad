"""What a guest can reach: all that the host can, or nothing. The test reaches each guest."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread

import pytest
from chosen import Chosen

from pytest_xhyve import Guest, GuestFactory, NotSupported
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.qemu.machine import QemuMachine
from pytest_xhyve.model.machine import CLOSED_PORT, SSH_PORT
from pytest_xhyve.model.spec import GuestSpec

pytestmark = pytest.mark.xhyve(image="tiny")

# A guest with this unit answers nothing from that port, as behind a firewall that is up before the network.
_DROP = f"""\
[Unit]
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target
[Service]
Type=oneshot
ExecStart=ip rule add priority 1 ipproto tcp sport {CLOSED_PORT} blackhole
[Install]
WantedBy=sysinit.target
"""


class _Greeting(StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"the host's own")


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    """The port of a server on the host's loopback interface."""
    with TCPServer(("127.0.0.1", 0), _Greeting) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def reaches(guest: Guest, port: int) -> bool:
    """Whether *guest* reaches the host's service; a guest without a route fails at once."""
    return guest.run(f"nc -w 5 10.0.2.2 {port} </dev/null", check=False).stdout == "the host's own"


@pytest.mark.run_under("warm")
@pytest.mark.xhyve(network="isolated")
def test_isolated_guest_reaches_nothing_but_answers(xhyve_guest: Guest, service: int) -> None:
    assert not reaches(xhyve_guest, service)
    # Its DHCP server names no router, so that no connection to elsewhere waits for its limit.
    begin = time.monotonic()
    assert xhyve_guest.run("nc -w 30 192.0.2.1 80 </dev/null", check=False).returncode != 0
    assert time.monotonic() - begin < 15
    # The test reaches it, by SSH and by a forwarded port.
    xhyve_guest.run("(while :; do echo hello | nc -l -p 7000; done) >/dev/null 2>&1 &")
    xhyve_guest.wait_for_port(7000)
    with socket.create_connection(xhyve_guest.forward(7000), timeout=10) as connection:
        assert connection.recv(100) == b"hello\n"


@pytest.mark.run_under("warm")
def test_no_early_connections_come_late(hypervisor: Chosen) -> None:
    """libslirp repeats what a booting guest has missed; a guest's SSH server refuses others if many come at once."""
    with closing(Fleet(hypervisor.settings(), Home.of_user())) as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec(image="tiny", start="cold")))
        machine = guest._own_power.machine
        assert isinstance(machine, QemuMachine)
        states = [state for state, *_, port in machine._connections() if port == str(SSH_PORT)]
    assert "ESTABLISHED" in states
    assert states.count("SYN_SENT") <= 5, states


@pytest.mark.long
@pytest.mark.run_under("warm")
@pytest.mark.xhyve(image="debian12")
def test_guest_boots_whose_firewall_drops_all_but_ssh(xhyve_guest: Guest) -> None:
    """The plugin cannot see at another port that its network is up."""
    xhyve_guest.run("cat >/etc/systemd/system/drop.service && systemctl enable drop", input=_DROP)
    xhyve_guest.shutdown()
    xhyve_guest.start()
    with socket.create_connection(xhyve_guest.forward(CLOSED_PORT), timeout=10) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)


@pytest.mark.run_under("warm")
def test_guest_reaches_the_host_by_default(xhyve_guest: Guest, service: int) -> None:
    assert reaches(xhyve_guest, service)


@pytest.mark.thorough
@pytest.mark.run_under("qemu", "warm")
@pytest.mark.xhyve(network="none")
def test_guest_without_network(xhyve_guest: Guest, service: int) -> None:
    assert not reaches(xhyve_guest, service)
    xhyve_guest.reboot()
    assert not reaches(xhyve_guest, service)


@pytest.mark.run_under("xhyve")
def test_what_vmnet_cannot_do(xhyve_guest_factory: GuestFactory, hypervisor: Chosen) -> None:
    with pytest.raises(NotSupported, match=r"network='isolated'.*\n.*--xhyve-hypervisor=qemu"):
        xhyve_guest_factory(network="isolated")
