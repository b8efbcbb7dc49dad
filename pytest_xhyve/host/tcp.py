"""A connection over TCP."""

from __future__ import annotations

import contextlib
import socket


def send_at_once(connection: socket.socket) -> None:
    """Send each message over *connection* at once; the connections of a listening socket inherit that.

    Otherwise, the host's kernel keeps a short message back until the one before it is acknowledged, which takes 40 ms
    (TCP_NODELAY in tcp(7)).
    """
    # On macOS, this fails if the other end has hung up; the next read or write tells that.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
