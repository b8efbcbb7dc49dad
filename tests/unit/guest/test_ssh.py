"""Logging in, against an SSH server in this process: what a guest's server does at its worst."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import paramiko
import pytest

from pytest_xhyve.guest import network_probe, ssh
from pytest_xhyve.guest.network_probe import NetworkProbe
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.model.errors import ConnectionFailed, KernelPanic
from pytest_xhyve.model.secret import Secret

# It logs each connection that a test cuts.
logging.getLogger("test.server").setLevel(logging.CRITICAL + 1)

Handler = Callable[[socket.socket], None]


@contextmanager
def listening(*handlers: Handler) -> Iterator[Endpoint]:
    """A server whose connections are served by *handlers*, one after the other, the last one again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def serve() -> None:
            number = 0
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                handlers[min(number, len(handlers) - 1)](connection)
                number += 1

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield Endpoint("127.0.0.1", server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


def says(data: bytes) -> Handler:
    def handle(connection: socket.socket) -> None:
        connection.sendall(data)

    return handle


def closes(connection: socket.socket) -> None:
    connection.close()


def is_silent(connection: socket.socket) -> None:
    pass


def wait(
    endpoint: Endpoint | None,
    timeout: float = 10,
    *,
    taken: int | None = None,
    alive: Callable[[], None] = lambda: None,
    closed: Endpoint | None = None,
) -> socket.socket | None:
    found = ssh.wait_for_banner(lambda: endpoint, lambda: taken, alive, NetworkProbe(lambda: closed), timeout)
    return None if found is None else found[0]


@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n", b"Welcome\r\nSSH-2.0-x\r\n"])
def test_banner_is_waited_for_and_left_unread(said: bytes) -> None:
    with listening(says(said)) as endpoint, wait(endpoint) or pytest.fail("no banner") as connection:
        assert connection.recv(4096).endswith(b"SSH-2.0-x\r\n")


def test_short_messages_are_not_kept_back() -> None:
    with listening(says(b"SSH-2.0-x\r\n")) as endpoint, wait(endpoint) or pytest.fail("no banner") as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_connections_without_a_banner_are_tried_again() -> None:
    def tell_and_close(connection: socket.socket) -> None:
        connection.sendall(b"Exceeded MaxStartups\r\n")
        connection.close()

    handlers = (closes, tell_and_close, closes, says(b"SSH-2.0-x\r\n"))
    with listening(*handlers) as endpoint, wait(endpoint) or pytest.fail("no banner") as connection:
        assert connection.recv(4096) == b"SSH-2.0-x\r\n"


def test_half_a_line_and_then_nothing_is_not_waited_for() -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(b"SS")
        connection.close()

    with listening(half, says(b"SSH-2.0-x\r\n")) as endpoint, wait(endpoint) or pytest.fail("no banner"):
        pass


def test_a_connection_that_the_guest_has_not_taken_is_given_up() -> None:
    start = time.monotonic()
    with listening(is_silent, says(b"SSH-2.0-x\r\n")) as endpoint, wait(endpoint, taken=0) or pytest.fail("no banner"):
        assert time.monotonic() - start < 5


def test_a_connection_that_the_guest_has_taken_is_kept() -> None:
    def slow(connection: socket.socket) -> None:
        time.sleep(0.5)
        connection.sendall(b"SSH-2.0-slow\r\n")

    with listening(slow, says(b"SSH-2.0-x\r\n")) as endpoint, wait(endpoint) or pytest.fail("no banner") as connection:
        assert connection.recv(4096) == b"SSH-2.0-slow\r\n"


def test_guest_that_refuses_ssh_is_soon_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its firewall lets only SSH through, and its SSH server has not started yet."""
    blind = 0.5
    monkeypatch.setattr(network_probe, "_BLIND_SECONDS", blind)
    begin = time.monotonic()
    with (
        listening(is_silent) as closed,
        listening(closes, closes, closes, closes, says(b"SSH-2.0-x\r\n")) as endpoint,
        wait(endpoint, taken=0, closed=closed) or pytest.fail("no banner"),
    ):
        assert blind < time.monotonic() - begin < 4 * blind


def test_nothing_connects_before_the_network_answers() -> None:
    connected: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connected.append(connection)
        connection.sendall(b"SSH-2.0-x\r\n")

    with listening(is_silent, is_silent, closes) as closed, listening(serve) as endpoint:
        begin = time.monotonic()
        with wait(endpoint, taken=0, closed=closed) or pytest.fail("no banner"):
            assert time.monotonic() - begin > 0.2
    assert len(connected) == 1


def test_time_is_up() -> None:
    start = time.monotonic()
    with listening(closes) as endpoint:
        assert wait(endpoint, 0.2) is None
    assert wait(None, 0.2) is None
    assert time.monotonic() - start < 5


def test_stops_at_once_when_the_guest_dies() -> None:
    def panic() -> None:
        raise KernelPanic("dead")

    with listening(is_silent) as endpoint, pytest.raises(KernelPanic):
        wait(endpoint, 600, alive=panic)


PASSWORD = Secret("p\u00e4ssw\u00f6rd")


class Server(paramiko.ServerInterface):
    """Lets in one key, and one password."""

    def __init__(self, welcome: str) -> None:
        self._welcome = welcome

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = f"{key.get_name()} {key.get_base64()}" == self._welcome
        return paramiko.common.AUTH_SUCCESSFUL if known and username == "root" else paramiko.common.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        known = password == PASSWORD.reveal() and username == "root"
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "publickey,password"


class AskingServer(Server):
    """Asks for the password, as OpenSSH does with ``KbdInteractiveAuthentication`` alone (RFC 4256)."""

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "keyboard-interactive"

    def check_auth_password(self, username: str, password: str) -> int:  # noqa: ARG002
        return paramiko.common.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> paramiko.server.InteractiveQuery:  # noqa: ARG002
        query = paramiko.server.InteractiveQuery("", "")
        query.add_prompt("Password: ", echo=False)
        return query

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        known = responses == [PASSWORD.reveal()]
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED


class BusyServer(Server):
    """Takes longer for an answer than it is waited for."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        time.sleep(2)
        return super().check_auth_publickey(username, key)


class Keys:
    """A guest's keys, and the user's."""

    def __init__(self, folder: Path) -> None:
        self.path, self.client = client_key(folder)
        self.host = KeyPair.generate()
        host = folder / "host"
        host.write_bytes(self.host.private)
        self.host_key = paramiko.PKey.from_path(host)

    def serve(self, connection: socket.socket) -> None:
        self.serve_by(Server, connection)

    def serve_by(self, kind: type[Server], connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transport.set_log_channel("test.server")
        transport.add_server_key(self.host_key)
        transport.start_server(server=kind(self.client.public), event=threading.Event())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def log_in(endpoint: Endpoint, keys: Keys, **changes: object) -> paramiko.SSHClient:
    connection = wait(endpoint)
    assert connection is not None
    arguments = {"user": "root", "key": keys.path, "host_keys": [keys.host.public], "timeout": 10.0}
    client, pulse = ssh.log_in(connection, endpoint, **(arguments | changes))  # type: ignore[arg-type]
    assert pulse.silence() == 0
    return client


def test_login(keys: Keys) -> None:
    with listening(keys.serve) as endpoint, log_in(endpoint, keys) as client:
        assert client.get_transport().is_authenticated()  # type: ignore[union-attr]


def test_host_key_is_compared_by_its_bytes(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where PyNaCl's modules were loaded twice, and the same key has two classes."""
    monkeypatch.setattr("nacl.signing.VerifyKey.__eq__", lambda *_: False)
    test_login(keys)


def test_unknown_host_key_is_refused(keys: Keys) -> None:
    other = KeyPair.generate().public
    with listening(keys.serve) as endpoint:
        with pytest.raises(ConnectionFailed, match="shows another host key than the one in") as raised:
            log_in(endpoint, keys, host_keys=[other])
        assert other in str(raised.value)
        assert keys.host.public in str(raised.value)


def test_host_key_of_another_kind_is_refused(keys: Keys) -> None:
    rsa = paramiko.RSAKey.generate(2048)
    with (
        listening(keys.serve) as endpoint,
        pytest.raises(ConnectionFailed, match="shows another host key than the one in"),
    ):
        log_in(endpoint, keys, host_keys=[f"ssh-rsa {rsa.get_base64()}"])


def test_host_key_that_is_none(keys: Keys) -> None:
    with (
        listening(keys.serve) as endpoint,
        pytest.raises(ConnectionFailed, match="line in host_keys that is not a key: 'nonsense'"),
    ):
        log_in(endpoint, keys, host_keys=["nonsense"])


def test_refused_key_says_which(keys: Keys) -> None:
    expected = pytest.raises(ssh.Refused, match=f"ubuntu may not log in at .* with {keys.path}")
    with listening(keys.serve) as endpoint, expected:
        log_in(endpoint, keys, user="ubuntu")


def test_server_that_does_not_answer_has_not_refused(keys: Keys) -> None:
    """As that of a guest on a busy host: the login is tried again."""
    expected = pytest.raises(ssh.Broken, match="has not answered in time whether root may log in")
    with listening(partial(keys.serve_by, BusyServer)) as endpoint, expected:
        log_in(endpoint, keys, timeout=1.0)


def test_login_by_password(keys: Keys) -> None:
    with listening(keys.serve) as endpoint, log_in(endpoint, keys, key=None, password=PASSWORD) as client:
        assert client.get_transport().is_authenticated()  # type: ignore[union-attr]


def test_server_that_asks_for_the_password(keys: Keys) -> None:
    serve = partial(keys.serve_by, AskingServer)
    with listening(serve) as endpoint, log_in(endpoint, keys, key=None, password=PASSWORD) as client:
        assert client.get_transport().is_authenticated()  # type: ignore[union-attr]


def test_refused_password_is_shown_nowhere(keys: Keys) -> None:
    wrong = "wr\u00f6ng password"
    with (
        listening(keys.serve) as endpoint,
        pytest.raises(ssh.Refused, match=r"root may not log in at .* with the password that was given") as raised,
    ):
        log_in(endpoint, keys, key=None, password=Secret(wrong))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    # What a report with local variables would show.
    shown = [str(raised.value)]
    trace = raised.value.__traceback__
    while trace is not None:
        shown.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    assert sum(wrong in text for text in shown) == 1, "only this test's own variable"


def test_key_that_is_none(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "no-key").write_text("no key")
    with listening(keys.serve) as endpoint, pytest.raises(ConnectionFailed, match="no-key is not a usable private key"):
        log_in(endpoint, keys, key=tmp_path / "no-key")


def test_broken_connection_may_be_tried_again(keys: Keys) -> None:
    def breaks(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.close()

    with listening(breaks) as endpoint, pytest.raises(ssh.Broken):
        log_in(endpoint, keys)


def test_nothing_is_logged_meanwhile(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    def breaks(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-x\r\n")
        connection.close()

    with listening(breaks) as endpoint, pytest.raises(ssh.Broken):
        log_in(endpoint, keys)
    assert caplog.records == []


def test_client_key_is_the_users_own_and_made_once(tmp_path: Path) -> None:
    path, pair = client_key(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert client_key(tmp_path) == (path, pair)


def test_client_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text("")
    with pytest.raises(Exception, match="is not a usable key"):
        client_key(tmp_path)


def test_grace_begins_with_the_first_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot that takes longer than the grace does not use it up."""
    moments = iter([300.0, 309.0, 310.0])
    monkeypatch.setattr(ssh, "monotonic", lambda: next(moments))
    grace = ssh.Grace(10)
    assert [grace.is_over() for _ in range(3)] == [False, False, True]


def test_guest_without_grace_refuses_for_good() -> None:
    assert ssh.Grace(0).is_over()
