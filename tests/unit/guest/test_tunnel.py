from __future__ import annotations

import socket
import threading

import paramiko
import pytest
from loopback_ssh import Server, transport_to

from pytest_xhyve.guest.expose import ExposedPorts
from pytest_xhyve.guest.tunnel import Tunnel, carry, hang_up
from pytest_xhyve.model.errors import XhyveError


class _Server(Server):
    """Forwards to what echoes, unless it may not."""

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self.asked: list[tuple[str, int]] = []

    def check_channel_direct_tcpip_request(
        self,
        chanid: int,  # noqa: ARG002
        origin: tuple[str, int],  # noqa: ARG002
        destination: tuple[str, int],
    ) -> int:
        self.asked.append(destination)
        if not self.allowed:
            return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        return paramiko.common.OPEN_SUCCEEDED


def test_connections_go_through_and_back() -> None:
    server = _Server(allowed=True)
    with transport_to(server) as transport:
        tunnel = Tunnel(lambda: transport, "127.0.0.53", 80)
        place = (tunnel.endpoint.host, tunnel.endpoint.port)
        data = bytes(range(256)) * 4000
        for _ in range(2):
            with socket.create_connection(place, timeout=20) as connection:
                sender = threading.Thread(
                    target=lambda to: (to.sendall(data), to.shutdown(socket.SHUT_WR)), args=(connection,)
                )
                sender.start()
                got = b""
                while piece := connection.recv(1 << 16):
                    got += piece
                sender.join()
            assert got == data
        tunnel.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place, timeout=5)
    assert set(server.asked) == {("127.0.0.53", 80)}
    assert place[0] == "127.0.0.1"


def test_channel_of_an_ssh_connection_that_has_just_ended() -> None:
    """paramiko's own thread, which marks the channels as closed, has not noticed it yet."""
    with transport_to(_Server(allowed=True)) as transport:
        channel = transport.open_channel("direct-tcpip", ("127.0.0.53", 80), ("127.0.0.1", 0), timeout=20)
        transport.packetizer.close()
        hang_up(channel)
        assert channel.closed


def test_connection_for_which_there_is_no_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a program of the host to the guest, and of the guest to a server of the test; the others go on."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with transport_to(_Server(allowed=True)) as transport:
        channels = [
            transport.open_channel("direct-tcpip", ("127.0.0.53", 80), ("127.0.0.1", 0), timeout=20) for _ in range(3)
        ]
        for channel in channels:
            # The server has its threads by then.
            channel.sendall(b"x")
            assert channel.recv(1) == b"x"
        ports = ExposedPorts("some", lambda: pytest.fail("no shell is needed"))
        ours, theirs = socket.socketpair()
        with ours, theirs, monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            carry(ours, channels[0])
            ports._accept(channels[1], ("127.0.0.1", 1), ("127.0.0.1", 80))
        assert [channel.closed for channel in channels] == [True, True, False]
        channels[2].sendall(b"y")
        assert channels[2].recv(1) == b"y"


def test_server_that_does_not_forward_is_named() -> None:
    with (
        transport_to(_Server(allowed=False)) as transport,
        pytest.raises(XhyveError, match=r"port 80 is served on the guest's ::1 only, and .*\n.*AllowTcpForwarding"),
    ):
        Tunnel(lambda: transport, "::1", 80)
