"""Reach a service that listens on the guest's own loopback interface only: over SSH, as ``ssh -L`` does."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.hypervisors.base import Endpoint, VirtualMachine
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import SSH_PORT

if TYPE_CHECKING:
    import paramiko


LOOPBACK = "127.0.0.1"
TABLE = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null"
"""A command for the guest; it prints the kernel's tables of TCP sockets (proc_net_tcp.rst in Linux)."""

_OPENING_SECONDS = 20.0
_LOOK_SECONDS = 10.0
_CHUNK = 1 << 16
# A row: the local address and port, the remote ones, and the state, of which 0A is LISTEN.
_LISTENER = re.compile(r"^ *[0-9]+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:0000 0A ", re.MULTILINE)
_IPV6_LOOPBACK = f"{'0' * 24}01000000"
# Addresses are in the guest's byte order, which is little-endian. ::ffff:127.0.0.0/104 is IPv4's loopback network.
_IPV4_LOOPBACK = re.compile(r"(?:0{16}FFFF0000)?[0-9A-F]{6}7F")


def forward(
    vm: VirtualMachine,
    tunnels: dict[int, Tunnel],
    connect: Callable[[], paramiko.Transport],
    run: Callable[..., Completed],
    port: int,
) -> Endpoint:
    """See `pytest_xhyve.Guest.forward`.

    Args:
        vm: the guest's machine, which is on.
        tunnels: the guest's tunnels, by their ports; a new one is added.
        connect: returns the SSH connection.
        run: runs a command in the guest.
        port: the port in the guest.

    Raises:
        XhyveError: the port cannot be forwarded.
    """
    tunnel = tunnels.get(port)
    if tunnel is None and port != SSH_PORT:
        address = None
        # A guest that does not answer is reached as from outside.
        with contextlib.suppress(XhyveError):
            address = find_loopback_address(run(TABLE, check=False, timeout=_LOOK_SECONDS).stdout, port)
        if address is not None:
            tunnel = tunnels[port] = Tunnel(connect, address, port)
    return vm.forward(port) if tunnel is None else tunnel.endpoint


def find_loopback_address(table: str, port: int) -> str | None:
    """The loopback address on which alone the TCP *port* is served in the guest; None if there is none.

    Args:
        table: the output of `TABLE`.
        port: the port.
    """
    places = {place for place, number in _LISTENER.findall(table) if int(number, 16) == port}
    if not places or not all(place == _IPV6_LOOPBACK or _IPV4_LOOPBACK.fullmatch(place) for place in places):
        return None
    for place in sorted(places - {_IPV6_LOOPBACK}):
        return ".".join(str(byte) for byte in reversed(bytes.fromhex(place[-8:])))
    return "::1"


class Tunnel:
    """A port of the host's loopback interface, whose connections end in the guest at *address* and *port*.

    Args:
        connect: returns the SSH connection; a new one after a restart of the guest.
        address: a loopback address of the guest.
        port: the port in the guest.

    Raises:
        XhyveError: the guest's SSH server forwards no connections.
    """

    def __init__(self, connect: Callable[[], paramiko.Transport], address: str, port: int) -> None:
        self._connect = connect
        self._place = (address, port)
        try:
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
        threading.Thread(target=self._serve, daemon=True, name=f"tunnel to port {port}").start()

    @property
    def endpoint(self) -> Endpoint:
        """Where the host reaches it."""
        host, port = self._server.getsockname()
        return Endpoint(host, port)

    def close(self) -> None:
        """Accept no more connections; those that are open end with the SSH connection."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _open(self, client: tuple[str, int]) -> paramiko.Channel:
        return self._connect().open_channel("direct-tcpip", self._place, client, timeout=_OPENING_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                connection, client = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(connection, client), daemon=True).start()

    def _carry(self, connection: socket.socket, client: tuple[str, int]) -> None:
        with connection:
            try:
                channel = self._open(client)
            except Exception:
                # The service has ended, or the guest restarts: the client sees a closed connection, as from a guest.
                return
            back = threading.Thread(target=_copy, args=(channel.recv, connection.sendall, connection), daemon=True)
            back.start()
            _copy(connection.recv, channel.sendall, channel)
            back.join()
            channel.close()


def _copy(
    receive: Callable[[int], bytes], send: Callable[[bytes], None], target: socket.socket | paramiko.Channel
) -> None:
    """Copy until one end is closed, and tell the other one."""
    with contextlib.suppress(OSError, EOFError):
        while data := receive(_CHUNK):
            send(data)
    with contextlib.suppress(OSError, EOFError):
        target.shutdown(socket.SHUT_WR)
