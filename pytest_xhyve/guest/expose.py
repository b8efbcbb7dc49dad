"""Let a guest reach servers of the test, over SSH, as ``ssh -R`` does (RFC 4254, section 7.1)."""

from __future__ import annotations

import contextlib
import shlex
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_xhyve.guest.connection import Connection, supervise
from pytest_xhyve.guest.lan_setup import HOSTS
from pytest_xhyve.guest.listeners import TABLE, find_addresses, find_inodes
from pytest_xhyve.guest.tunnel import LOOPBACK, carry, hang_up
from pytest_xhyve.host.tcp import send_at_once
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError, XhyveWarning

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.agent import RunAsRoot
    from pytest_xhyve.guest.waits import Try

HOST = "host.test"
"""The name of the test's host in a guest. No other host has a name of this domain (RFC 6761, section 6.2)."""

_CONNECT_SECONDS = 20.0
_LOOK_SECONDS = 10.0
# The session of a lost connection may hold its ports a little longer.
_RENEWAL_SECONDS = 5.0
_AGAIN_SECONDS = 0.1
# proc(5). The programs are OpenSSH's (sshd-session since 9.8) and Dropbear's.
_END_SESSION = r"""
ls -l /proc/[0-9]*/fd/* 2>/dev/null | sed -n 's|.* /proc/\([0-9]*\)/fd/[0-9]* -> socket:\[{inode}\]$|\1|p' | sort -u |
while read -r pid; do
    case $(readlink "/proc/$pid/exe") in */sshd | */sshd-session | */dropbear) kill "$pid" ;; esac
done 2>/dev/null
:
"""
_NAME = "grep -qxF {line} {file} || echo {line} >>{file}"


class _Denied(Exception):
    """The guest's SSH server does not listen on the port."""


class ExposedPorts:
    """The servers of the test that a guest reaches.

    Args:
        name: the guest's.
        root_shell: returns what runs a line in the guest as root.
    """

    def __init__(self, name: str, root_shell: Callable[[], RunAsRoot]) -> None:
        self._name = name
        self._root_shell = root_shell
        self.ports: Mapping[int, int] = {}
        """The port of the host for each port in the guest; each login exposes them again."""

    def add(self, connection: Connection, port: int, guest_port: int, run: Try) -> tuple[str, int]:
        """See `pytest_xhyve.Guest.expose`.

        Args:
            connection: to the guest.
            port: of the host.
            guest_port: the port in the guest.
            run: runs a command in the guest that no report shows as the test's.

        Raises:
            XhyveError: the port cannot be exposed.
        """
        if guest_port not in self.ports:
            self._set_name()
            try:
                self._request(connection, guest_port)
            except _Denied as error:
                raise XhyveError(self._explain(guest_port, run)) from error
        self.ports = {**self.ports, guest_port: port}
        return HOST, guest_port

    def renew(self, connect: Callable[[], Connection]) -> None:
        """Expose all of them again over a new connection. What fails becomes a warning, for the guest can be used."""
        if not self.ports:
            return
        try:
            self._set_name()
            connection = connect()
            taken = list(self._renew_all(connection))
        except XhyveError as error:
            self._warn(str(error))
        else:
            if taken:
                self._warn(f"port {', '.join(map(str, taken))} is taken in the guest")

    def _renew_all(self, connection: Connection) -> Iterator[int]:
        """Expose all of them; yield each port that is taken."""
        end = monotonic() + _RENEWAL_SECONDS
        for port in self.ports:
            try:
                self._request(connection, port)
            except _Denied:
                self._end_session(port)
                try:
                    self._request(connection, port, end)
                except _Denied:
                    yield port

    def _end_session(self, port: int) -> None:
        """End the SSH session in the guest that listens on *port* for a connection that is lost.

        A guest that is restored from a snapshot has the session of its last connection, which nothing ends. After a
        loss of the connection, it may end late.
        """
        as_root = self._root_shell()
        for inode in find_inodes(as_root(TABLE, b""), port):
            as_root(_END_SESSION.format(inode=inode), b"")

    def _warn(self, reason: str) -> None:
        warnings.warn(f"guest {self._name} does not reach the test's servers again: {reason}", XhyveWarning, 2)

    def _set_name(self) -> None:
        line = shlex.quote(f"{LOOPBACK} {HOST}")
        try:
            self._root_shell()(_NAME.format(line=line, file=HOSTS), b"")
        except XhyveError as error:
            raise XhyveError(f"cannot write the name {HOST} to {HOSTS} of guest {self._name}: {error}") from error

    def _request(self, connection: Connection, port: int, end: float = 0.0) -> None:
        """Let the guest's SSH server listen on *port*; try again until *end*.

        Raises:
            _Denied: it does not.
            XhyveError: the guest does not answer.
        """
        # Imported with the connection.
        import paramiko  # noqa: PLC0415

        what = f"expose port {port}"
        while True:
            try:
                supervise(
                    lambda: connection.transport.request_port_forward(LOOPBACK, port, self._accept),
                    connection.checker(what),
                )
                return
            except XhyveError:
                raise
            except paramiko.SSHException as error:
                if not connection.transport.is_active():
                    raise connection.lost(what, error) from error
                if monotonic() >= end:
                    raise _Denied from error
            except Exception as error:
                # paramiko raises whatever ended its own thread.
                raise connection.lost(what, error) from error
            time.sleep(_AGAIN_SECONDS)

    def _explain(self, port: int, run: Try) -> str:
        table = ""
        with contextlib.suppress(XhyveError):
            table = run(TABLE, _LOOK_SECONDS).stdout
        if find_addresses(table, port):
            return f"port {port} is taken in guest {self._name}\n  use another one: guest_port="
        return (
            f"the SSH server of guest {self._name} does not listen on port {port} for the test\n"
            "  allow it (AllowTcpForwarding in sshd_config); below 1024, only root may listen: use guest_port="
        )

    def _accept(self, channel: paramiko.Channel, _: tuple[str, int], server: tuple[str, int]) -> None:
        """Called for each connection of the guest, in paramiko's own thread, which must not wait and not fail."""
        try:
            threading.Thread(
                target=self._carry, args=(channel, server[1]), daemon=True, name=f"exposed port {server[1]}"
            ).start()
        except RuntimeError:
            # The host lets this process start no more threads.
            hang_up(channel)

    def _carry(self, channel: paramiko.Channel, guest_port: int) -> None:
        try:
            connection = _connect(self.ports[guest_port])
        except (KeyError, OSError):
            hang_up(channel)
            return
        with connection:
            carry(connection, channel)


def _connect(port: int) -> socket.socket:
    """Connect to the server at *port* of the host, which may listen on either loopback address."""
    try:
        connection = socket.create_connection((LOOPBACK, port), timeout=_CONNECT_SECONDS)
    except OSError:
        connection = socket.create_connection(("::1", port), timeout=_CONNECT_SECONDS)
    connection.settimeout(None)
    send_at_once(connection)
    return connection
