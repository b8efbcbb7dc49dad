"""Reach a service that listens on the guest's own loopback interface only: over SSH, as ``ssh -L`` does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import paramiko

from pytest_xhyve.guest.listeners import TABLE, find_loopback_address
from pytest_xhyve.guest.waits import Try
from pytest_xhyve.host.acceptor import Acceptor
from pytest_xhyve.hypervisors.base import Endpoint, VirtualMachine
from pytest_xhyve.model.errors import NotSupported, XhyveError
from pytest_xhyve.model.machine import SSH_PORT

LOOPBACK = "127.0.0.1"
_OPENING_SECONDS = 20.0
_LOOK_SECONDS = 10.0
_CHUNK = 1 << 16
# Every program of the host can connect. Each connection takes two threads, and a channel of the SSH connection.
_MAX_CONNECTIONS = 256


def forward(
    vm: VirtualMachine,
    tunnels: dict[int, Tunnel],
    connect: Callable[[], paramiko.Transport],
    run: Try,
    port: int,
) -> Endpoint:
    """See `pytest_xhyve.Guest.forward`.

    Args:
        vm: the guest's machine, which is on.
        tunnels: the guest's tunnels, by their ports; a new one is added.
        connect: returns the SSH connection.
        run: runs a command in the guest that no report shows as the test's.
        port: the port in the guest.

    Raises:
        XhyveError: the port cannot be forwarded.
    """
    tunnel = tunnels.get(port)
    if tunnel is None and port != SSH_PORT:
        address = None
        # A guest that does not answer is reached as from outside.
        with contextlib.suppress(XhyveError):
            address = find_loopback_address(run(TABLE, _LOOK_SECONDS).stdout, port)
        if address is not None:
            tunnel = tunnels[port] = Tunnel(connect, address, port)
    if tunnel is not None:
        return tunnel.endpoint
    try:
        return vm.forward(port)
    except NotSupported:
        # The guest of another process is reached over SSH only.
        tunnel = tunnels[port] = Tunnel(connect, LOOPBACK, port, is_served=False)
        return tunnel.endpoint


class Tunnel:
    """A port of the host's loopback interface, whose connections end in the guest at *address* and *port*.

    Args:
        connect: returns the SSH connection; a new one after a restart of the guest.
        address: a loopback address of the guest.
        port: the port in the guest.
        is_served: whether a program listens there now, so that a connection must work.

    Raises:
        XhyveError: the guest's SSH server forwards no connections.
    """

    def __init__(
        self, connect: Callable[[], paramiko.Transport], address: str, port: int, *, is_served: bool = True
    ) -> None:
        self._connect = connect
        self._place = (address, port)
        try:
            if is_served:
                self._open(("127.0.0.1", 0)).close()
        except XhyveError:
            raise
        except Exception as error:
            # paramiko raises whatever ended its own thread.
            raise XhyveError(
                f"port {port} is served on the guest's {address} only, and the guest's SSH server does not forward to "
                f"it: {error}\n  allow it (AllowTcpForwarding in sshd_config), or let the service listen on 0.0.0.0"
            ) from error
        self._server = socket.create_server((LOOPBACK, 0))
        self._acceptor = Acceptor(self._server, self._carry, f"tunnel to port {port}", _MAX_CONNECTIONS)

    @property
    def endpoint(self) -> Endpoint:
        """Where the host reaches it."""
        host, port = self._server.getsockname()
        return Endpoint(host, port)

    def close(self) -> None:
        """End all connections."""
        self._acceptor.close()

    def _open(self, client: tuple[str, int]) -> paramiko.Channel:
        return self._connect().open_channel("direct-tcpip", self._place, client, timeout=_OPENING_SECONDS)

    def _carry(self, connection: socket.socket, _: Callable[[], bool]) -> None:
        try:
            channel = self._open(connection.getpeername())
        except Exception:
            # The service has ended, or the guest restarts: the client sees a closed connection, as from a guest.
            return
        carry(connection, channel)


def carry(connection: socket.socket, channel: paramiko.Channel) -> None:
    """Copy both ways until both ends are closed, or the SSH connection has ended; close *channel*."""

    def back() -> None:
        _copy(channel.recv, connection.sendall, connection)
        if channel.closed:
            # Nothing can be sent to the guest any more, so nothing more is read for it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    copying = threading.Thread(target=back, daemon=True)
    try:
        copying.start()
    except RuntimeError:
        # The host lets this process start no more threads.
        hang_up(channel)
        return
    _copy(connection.recv, channel.sendall, channel)
    copying.join()
    hang_up(channel)


def hang_up(channel: paramiko.Channel) -> None:
    """Close *channel*; the SSH connection may be at its end, which paramiko's own thread may not have noticed."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


def _copy(
    receive: Callable[[int], bytes], send: Callable[[bytes], None], target: socket.socket | paramiko.Channel
) -> None:
    """Copy until one end is closed, and close the other one for writing."""
    with contextlib.suppress(OSError, EOFError):
        while data := receive(_CHUNK):
            send(data)
    with contextlib.suppress(OSError, EOFError):
        target.shutdown(socket.SHUT_WR)
