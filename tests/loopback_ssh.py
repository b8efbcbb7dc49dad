"""An SSH server in this process, for tests of what goes over a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import paramiko


class Server(paramiko.ServerInterface):
    """Lets everybody in."""

    def check_auth_none(self, username: str) -> int:  # noqa: ARG002  # as paramiko calls it
        return paramiko.common.AUTH_SUCCESSFUL


@contextlib.contextmanager
def transport_to(
    server: paramiko.ServerInterface, kind: type[paramiko.Transport] = paramiko.Transport
) -> Iterator[paramiko.Transport]:
    """A connection to *server*, whose channels echo."""
    ours, theirs = socket.socketpair()
    serving = paramiko.Transport(theirs)
    serving.add_server_key(paramiko.ECDSAKey.generate())
    serving.start_server(event=threading.Event(), server=server)
    client = kind(ours)

    def echo(channel: paramiko.Channel) -> None:
        while data := channel.recv(1 << 16):
            channel.sendall(data)
        channel.shutdown_write()

    def serve() -> None:
        while serving.is_active():
            channel = serving.accept(0.2)
            if channel is not None:
                threading.Thread(target=echo, args=(channel,), daemon=True).start()

    thread = threading.Thread(target=serve)
    try:
        client.start_client(timeout=10)
        client.auth_none("root")
        thread.start()
        yield client
    finally:
        client.close()
        serving.close()
        if thread.ident is not None:
            thread.join()
