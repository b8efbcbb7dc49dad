"""A connection over TCP."""

from __future__ import annotations

import contextlib
import socket

from pytest_xhyve.host.exhaustion import is_exhausted


def try_to_connect(host: str, port: int, timeout: float) -> socket.socket | None:
    """A connection that sends each message at once; None if the other side does not accept it.

    Args:
        host: the other side's name or address.
        port: its TCP port.
        timeout: the limit in seconds.

    Raises:
        OSError: this process or the host has too many open files.
    """
    try:
        connection = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        if is_exhausted(error):
            raise
        return None
    send_at_once(connection)
    return connection


def send_at_once(connection: socket.socket) -> None:
    """Send each message over *connection* at once; the connections of a listening socket inherit that.

    Otherwise, the host's kernel keeps a short message back until the one before it is acknowledged, which takes 40 ms
    (TCP_NODELAY in tcp(7)).
    """
    # On macOS, this fails if the other end has hung up; the next read or write tells that.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
