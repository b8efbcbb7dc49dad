"""A port of the loopback interface, to which each program of the host can connect."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from waiting import becomes

from pytest_xhyve.host.acceptor import Acceptor

Serve = Callable[[socket.socket, Callable[[], bool]], None]


def echo(connection: socket.socket, trust: Callable[[], bool]) -> None:
    """Trusts who sends an x."""
    # Whoever is hung up on with data unread resets the connection.
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1024):
            if b"x" in data and not trust():
                return
            connection.sendall(data)


@contextmanager
def accepting(most: int, strangers: int = 0, serve: Serve = echo) -> Iterator[tuple[str, int]]:
    server = socket.create_server(("127.0.0.1", 0))
    place = server.getsockname()
    acceptor = Acceptor(server, serve, "test", most, strangers)
    try:
        yield place
    finally:
        acceptor.close()


def is_served(connection: socket.socket, text: bytes = b"a") -> bool:
    try:
        connection.sendall(text)
        return connection.recv(1024) == text
    except OSError:
        return False


def test_short_messages_are_not_kept_back() -> None:
    def say_twice(connection: socket.socket, _: Callable[[], bool]) -> None:
        while connection.recv(1):
            connection.sendall(b"a")
            connection.sendall(b"b")

    with accepting(1, serve=say_twice) as place, socket.create_connection(place, timeout=20) as connection:
        begin = time.monotonic()
        for _ in range(50):
            connection.sendall(b"x")
            came = 0
            while came < 2:
                came += len(connection.recv(2))
        # With a delay of 40 ms for each, it is 2 s.
        assert time.monotonic() - begin < 1


def test_strangers_keep_nobody_out() -> None:
    with accepting(2, 8) as place, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(place, timeout=20))

        known = [connect() for _ in range(2)]
        assert all(is_served(each, b"x") for each in known)
        # As another user of the host may do.
        many = [connect() for _ in range(200)]
        late = connect()
        assert is_served(late)
        assert all(is_served(each) for each in known)
        assert sum(is_served(each) for each in many) <= 8
        assert not is_served(late, b"x")


def test_one_too_many_is_closed_and_its_place_is_free_again() -> None:
    with accepting(2) as place:
        with (
            socket.create_connection(place, timeout=20) as first,
            socket.create_connection(place, timeout=20) as second,
        ):
            assert is_served(first)
            assert is_served(second)
            with socket.create_connection(place, timeout=20) as third:
                assert not is_served(third)

        def is_free() -> bool:
            with socket.create_connection(place, timeout=20) as fourth:
                return is_served(fourth)

        assert becomes(is_free, 20)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ECONNABORTED])
def test_lack_of_descriptors_passes(number: int) -> None:
    failures = 3

    class Server(socket.socket):
        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise OSError(number, "not now")
            return super().accept()

    with Server() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        acceptor = Acceptor(server, echo, "test", 4)
        with socket.create_connection(server.getsockname(), timeout=20) as connection:
            assert is_served(connection)
        acceptor.close()


def test_lack_of_threads_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with accepting(4) as place:
        with monkeypatch.context() as patch:

            def start(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", start)
            with socket.create_connection(place, timeout=20) as connection:
                assert connection.recv(1) == b""
        with socket.create_connection(place, timeout=20) as connection:
            assert is_served(connection)


def test_close_ends_all() -> None:
    with accepting(4) as place:
        connection = socket.create_connection(place, timeout=20)
        assert is_served(connection)
    with connection:
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, timeout=5)
