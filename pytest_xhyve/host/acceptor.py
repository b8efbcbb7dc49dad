"""Serve the connections to a port of the loopback interface, which every program of the host can make.

A program that makes connections without end takes neither all threads nor all descriptors, and does not keep a program
out that has shown that it may connect. A lack of descriptors or threads, which passes, does not end the service.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable

from pytest_xhyve.host.tcp import send_at_once

_AGAIN_SECONDS = 0.1
# accept(2): of the one connection, or of the host for a while.
_PASSING = (
    errno.ECONNABORTED, errno.EPROTO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN,
)  # fmt: skip


class Acceptor:
    """Accepts connections until it is closed.

    Args:
        server: a listening socket of TCP, which this closes.
        serve: called for each connection, in a thread of its own, with the connection and a function: that notes that
            who has connected may do so, and returns False if there are too many. The connection is closed afterwards.
        name: of the threads.
        most: so many connections may be open; with *strangers*, so many that were noted.
        strangers: so many others may be open beside these. One more closes the oldest of them.
    """

    def __init__(
        self,
        server: socket.socket,
        serve: Callable[[socket.socket, Callable[[], bool]], None],
        name: str,
        most: int,
        strangers: int = 0,
    ) -> None:
        send_at_once(server)
        self._server = server
        self._serve = serve
        self._name = name
        self._most, self._most_strangers = most, strangers
        self._lock = threading.Lock()
        self._known: set[socket.socket] = set()
        # The oldest one first.
        self._strangers: dict[socket.socket, None] = {}
        self._is_closed = False
        threading.Thread(target=self._accept, daemon=True, name=name).start()

    def close(self) -> None:
        """Accept no more connections, and end those that are open."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            ends = [self._server, *self._known, *self._strangers]
        for end in ends:
            _hang_up(end)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError as error:
                if self._is_closed or error.errno not in _PASSING:
                    return
                time.sleep(_AGAIN_SECONDS)
                continue
            if not self._add(connection):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve_one, args=(connection,), daemon=True, name=self._name).start()
            except RuntimeError:
                # The host lets this process start no more threads.
                self._end(connection)
                time.sleep(_AGAIN_SECONDS)

    def _add(self, connection: socket.socket) -> bool:
        """Note an open connection; return whether it may be."""
        with self._lock:
            if self._is_closed:
                return False
            if not self._most_strangers:
                return self._note(connection)
            if len(self._strangers) >= self._most_strangers:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                _hang_up(oldest)
            self._strangers[connection] = None
            return True

    def _note(self, connection: socket.socket) -> bool:
        if len(self._known) >= self._most:
            return False
        self._known.add(connection)
        return True

    def _trust(self, connection: socket.socket) -> bool:
        with self._lock:
            if connection in self._known:
                return True
            if connection not in self._strangers or not self._note(connection):
                return False
            del self._strangers[connection]
            return True

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            self._serve(connection, lambda: self._trust(connection))
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._strangers.pop(connection, None)
            self._known.discard(connection)
        connection.close()


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
