"""Servers of the test that guests reach as host.test."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from pytest_xhyve import ConfigurationError, Guest, GuestFactory, XhyveError, XhyveWarning

pytestmark = [pytest.mark.xhyve(image="tiny", network="isolated"), pytest.mark.run_under("warm")]


class _Echo(BaseRequestHandler):
    """Answers with the name of the server, and what the client has sent until it closed its end."""

    def handle(self) -> None:
        self.request.settimeout(30)
        name = type(self.server).__name__.encode()
        self.request.sendall(name + b":")
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


@contextlib.contextmanager
def serving(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """The port of an echoing server on *address*."""

    class Server(ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        allow_reuse_address = daemon_threads = True

    with Server((address, port), _Echo) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def ask(guest: Guest, port: int, text: str = "hello") -> str:
    """What the server answers to *guest*; empty if nobody does."""
    return guest.run(f"echo {text} | nc -w 20 host.test {port}", check=False).stdout


def test_guest_reaches_a_server_of_the_test(xhyve_guest: Guest) -> None:
    with serving() as port, serving("::1") as other:
        assert xhyve_guest.expose(port) == ("host.test", port)
        assert ask(xhyve_guest, port) == "Server:hello\n"
        # A second server, at a port of its own in the guest; the first one is still there.
        assert xhyve_guest.expose(other, guest_port=8080) == ("host.test", 8080)
        assert ask(xhyve_guest, 8080) == ask(xhyve_guest, port) == "Server:hello\n"
        # All bytes arrive, both ways, while keepalives ask over the same connection.
        xhyve_guest.run("head -c 3000000 /dev/urandom >/tmp/sent")
        xhyve_guest.run(f"nc -w 20 host.test {port} </tmp/sent | tail -c +8 | cmp - /tmp/sent")
        # An exposed port can be given another server.
        xhyve_guest.expose(port, guest_port=8080)
        assert ask(xhyve_guest, 8080) == "Server:hello\n"
    # Nobody serves it: the guest is told at once.
    assert ask(xhyve_guest, port) == ""
    with serving(port=port):
        assert ask(xhyve_guest, port) == "Server:hello\n"


def test_after_restarts_and_restores(xhyve_guest: Guest) -> None:
    with serving() as port:
        xhyve_guest.expose(port)
        snapshot = xhyve_guest.snapshot()
        assert ask(xhyve_guest, port) == "Server:hello\n"
        xhyve_guest.restore(snapshot)
        assert ask(xhyve_guest, port) == "Server:hello\n"
        xhyve_guest.ssh.close()
        assert ask(xhyve_guest, port) == "Server:hello\n"
        xhyve_guest.reboot()
        assert ask(xhyve_guest, port) == "Server:hello\n"
        assert xhyve_guest.run("grep -c host.test /etc/hosts").stdout == "1\n"


@pytest.mark.run_under("xhyve")
@pytest.mark.xhyve(network="nat")
def test_guest_of_another_hypervisor(xhyve_guest: Guest) -> None:
    with serving() as port:
        xhyve_guest.expose(port)
        assert ask(xhyve_guest, port) == "Server:hello\n"


@pytest.mark.thorough
@pytest.mark.xhyve(image="debian12")
def test_openssh(xhyve_guest: Guest) -> None:
    ask_again = "bash -c 'exec 3<>/dev/tcp/host.test/{}; echo hello >&3; head -c 13 <&3'"
    with serving() as port:
        xhyve_guest.expose(port)
        assert xhyve_guest.run(ask_again.format(port), timeout=60).stdout == "Server:hello\n"
        snapshot = xhyve_guest.snapshot()
        xhyve_guest.restore(snapshot)
        assert xhyve_guest.run(ask_again.format(port), timeout=60).stdout == "Server:hello\n"
        xhyve_guest.reboot()
        assert xhyve_guest.run(ask_again.format(port), timeout=60).stdout == "Server:hello\n"


@pytest.fixture(scope="class")
def port(xhyve_class_guest: Guest) -> Iterator[int]:
    with serving() as port:
        xhyve_class_guest.expose(port)
        yield port


@pytest.mark.xhyve(reset=True)
class TestReset:
    """The tests of a guest that is reset reach what its fixtures have exposed."""

    @pytest.mark.parametrize("number", [1, 2])
    def test_each_test(self, xhyve_class_guest: Guest, port: int, number: int) -> None:
        assert ask(xhyve_class_guest, port) == "Server:hello\n"
        with serving() as other:
            assert ask(xhyve_class_guest, other) == "", f"exposed before test {number}"
            xhyve_class_guest.expose(other)
            assert ask(xhyve_class_guest, other) == "Server:hello\n"


@pytest.mark.thorough
def test_port_is_taken_in_the_guest(xhyve_guest: Guest) -> None:
    xhyve_guest.run("nc -l -p 7000 >/dev/null 2>&1 </dev/null &")
    xhyve_guest.wait_for_port(7000)
    with pytest.raises(XhyveError, match=r"port 7000 is taken in guest .*\n.*guest_port="):
        xhyve_guest.expose(7000)
    with serving() as port:
        xhyve_guest.expose(port, guest_port=7001)
        xhyve_guest.run("sed -i /host.test/d /etc/hosts")
        xhyve_guest.ssh.close()
        assert ask(xhyve_guest, 7001) == "Server:hello\n"
        # Something else takes the port before the plugin is there again.
        xhyve_guest.run("(while ! nc -l -p 7001; do usleep 1000; done) >/dev/null 2>&1 </dev/null &")
        xhyve_guest.ssh.close()
        with pytest.warns(XhyveWarning, match=r"does not reach the test's servers again: port 7001 is taken"):
            xhyve_guest.run("true")


@pytest.mark.parametrize("port", [0, 70000, True, "22"])
def test_invalid_port(xhyve_guest: Guest, port: int) -> None:
    with pytest.raises(ConfigurationError, match="is not a port"):
        xhyve_guest.expose(port)
    with pytest.raises(ConfigurationError, match="is not a port"):
        xhyve_guest.expose(22, guest_port=port)


def test_guest_that_may_reach_nothing(xhyve_guest_factory: GuestFactory) -> None:
    with (
        xhyve_guest_factory(network="none") as guest,
        pytest.raises(ConfigurationError, match=r"network=\"none\".*\n.*isolated"),
    ):
        guest.expose(8000)
