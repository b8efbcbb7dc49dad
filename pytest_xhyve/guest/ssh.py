"""SSH: wait until a guest answers, and log in with every key checked."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paramiko
from tenacity import Retrying, retry_if_exception_type, wait_exponential

from pytest_xhyve.guest.connection import broken, supervise
from pytest_xhyve.guest.network_probe import CONNECT_SECONDS, LOOK_SECONDS, NetworkProbe
from pytest_xhyve.guest.pulse import HeardSocket, Pulse
from pytest_xhyve.guest.ssh_config import known_hosts_name
from pytest_xhyve.guest.transport import SerialTransport
from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.host.tcp import try_to_connect
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.model.clock import monotonic, stop_at
from pytest_xhyve.model.errors import ConnectionFailed, XhyveError
from pytest_xhyve.model.secret import Secret

LOGGER = "pytest_xhyve.ssh"

_BANNER_SECONDS = 60.0
# A banner, the keys, the login.
_STEPS = 3
# AuthHandler.wait_for_response in paramiko.
_NO_ANSWER = "Authentication timeout."


class Broken(ConnectionFailed):
    """The connection ended before the login was done; a guest that starts or stops does that."""


class Refused(ConnectionFailed):
    """The login was refused; a guest that is still booting may refuse all but root (pam_nologin(8))."""


class Grace:
    """The time in which a booting guest may refuse a login: it may not have its keys yet.

    Args:
        seconds: how long, from the first refusal on. A boot takes as long as it takes.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: float | None = None

    def is_over(self) -> bool:
        """Whether a refusal that comes now is for good."""
        now = monotonic()
        if self._first is None:
            self._first = now
        return now >= self._first + self._seconds


class _NotYet(Exception):
    """The guest does not answer yet."""


class _NotTaken(_NotYet):
    """The guest itself has not accepted the connection."""


class Client(paramiko.SSHClient):
    """A client whose errors name `Guest.ssh` after the connection was closed or lost."""

    def exec_command(self, *arguments: Any, **options: Any) -> Any:
        self._check()
        return super().exec_command(*arguments, **options)

    def invoke_shell(self, *arguments: Any, **options: Any) -> paramiko.Channel:
        self._check()
        return super().invoke_shell(*arguments, **options)

    def open_sftp(self) -> paramiko.SFTPClient:
        self._check()
        return super().open_sftp()

    def _check(self) -> None:
        transport = self.get_transport()
        if transport is None or not transport.is_active():
            raise broken(
                "this client is not connected: its guest was restarted, or the connection was lost\n"
                "  use guest.ssh, which connects again"
            )


def wait_for_banner(
    find_endpoint: Callable[[], Endpoint | None],
    count_accepted: Callable[[], int | None],
    check_alive: Callable[[], None],
    network: NetworkProbe,
    timeout: float,
) -> tuple[socket.socket, Endpoint] | None:
    """Wait until an SSH server shows its banner (RFC 4253, section 4.2), and return the connection.

    A connection alone proves nothing: user-mode networks accept connections before the guest listens. The plugin closes
    such a connection soon, because its packets are repeated at longer and longer intervals. If the guest itself has
    accepted the connection, the plugin waits for the banner, so that a slow guest need not start its server twice.

    Args:
        find_endpoint: returns the address of the server, or None if it is not known yet.
        count_accepted: returns how many connections the guest itself has accepted, or None if it accepts all.
        check_alive: called while waiting; raises an error if waiting is useless.
        network: states when to connect, if the guest itself does not accept all connections.
        timeout: the limit in seconds.

    Returns:
        the connection, whose banner is still unread, and the server's address; None if there was no banner in time.
    """

    def attempt() -> tuple[socket.socket, Endpoint]:
        check_alive()
        endpoint = find_endpoint()
        if endpoint is None:
            raise _NotYet
        before = count_accepted()
        if before is not None and not network.may_connect():
            raise _NotYet
        connection = _connect(endpoint, end)
        try:
            _await_banner(connection, lambda: before is None or (count_accepted() or 0) > before, check_alive, end)
        except BaseException as error:
            if isinstance(error, _NotTaken):
                network.not_taken()
            elif isinstance(error, _NotYet):
                network.answered()
            connection.close()
            raise
        return connection, endpoint

    end = monotonic() + timeout
    waiting = Retrying(
        retry=retry_if_exception_type(_NotYet),
        wait=wait_exponential(multiplier=0.005, max=0.1),
        stop=stop_at(end),
        retry_error_callback=lambda _: None,
    )
    found: tuple[socket.socket, Endpoint] | None = waiting(attempt)
    return found


def _connect(endpoint: Endpoint, end: float) -> socket.socket:
    connection = try_to_connect(endpoint.host, endpoint.port, max(0.001, min(CONNECT_SECONDS, end - monotonic())))
    if connection is None:
        raise _NotYet
    return connection


def _await_banner(
    connection: socket.socket, is_taken: Callable[[], bool], check_alive: Callable[[], None], end: float
) -> None:
    """Wait until the banner can be read, without reading it.

    Raises:
        _NotTaken: the guest has not accepted the connection.
        _NotYet: there is no banner.
    """
    end = min(end, monotonic() + _BANNER_SECONDS)
    seen = b""
    while monotonic() < end:
        check_alive()
        if not is_readable(connection, LOOK_SECONDS):
            if not is_taken():
                raise _NotTaken
            continue
        try:
            start = connection.recv(4096, socket.MSG_PEEK)
        except OSError as error:
            raise _NotYet from error
        if start.startswith(b"SSH-"):
            return
        if b"\n" in start:
            # A server may send other lines first; one with too many connections does.
            connection.recv(start.index(b"\n") + 1)
        elif start == seen:
            # Nothing new arrived, or only half a line: the guest has closed the connection.
            raise _NotYet
        else:
            seen = start
            time.sleep(LOOK_SECONDS)
    raise _NotYet


def log_in(
    connection: socket.socket,
    endpoint: Endpoint,
    *,
    user: str,
    key: Path | None,
    host_keys: Sequence[str],
    timeout: float,
    password: Secret | None = None,
) -> tuple[paramiko.SSHClient, Pulse]:
    """Log in over *connection*; the server must show one of *host_keys*.

    The plugin uses no agent, no other keys and no configuration file of the user.

    Args:
        connection: to the server, whose banner is still unread; if the login fails, this closes it.
        endpoint: the server's address.
        user: the user to log in as.
        key: the file with the private key, or None to log in by the password.
        host_keys: public keys, as ``ssh-ed25519 AAAA…``.
        timeout: the limit of each step, in seconds.
        password: the user's; it is used only without a key.

    Returns:
        the client, and the `Pulse` that asks whether the guest still answers.

    Raises:
        Refused: the guest does not accept the key or the password.
        Broken: the connection ended.
        ConnectionFailed: the server has another host key, or the login failed otherwise.
    """
    client = Client()
    # paramiko logs a traceback for each connection that a rebooting guest drops; a user who wants to read them
    # enables this logger.
    client.set_log_channel(LOGGER)
    _quiet(logging.getLogger(LOGGER))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    connection.settimeout(timeout)
    heard = HeardSocket.adopt(connection)
    failure: BaseException
    try:
        _expect(client, endpoint, host_keys)

        def connect() -> None:
            client.connect(
                endpoint.host,
                endpoint.port,
                username=user,
                pkey=None if key is None else _load_key(key),
                password=None if key is not None or password is None else password.reveal(),
                sock=heard,
                allow_agent=False,
                look_for_keys=False,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
                channel_timeout=timeout,
                transport_factory=SerialTransport,
            )

        # A test can stop the clock by which paramiko counts its limits.
        supervise(connect, lambda: None, monotonic() + _STEPS * timeout)
    except BaseException as error:
        client.close()
        heard.close()
        failure = error
        # paramiko raises here whatever ended its own thread: a server that sends nonsense may end it by any error.
        if isinstance(error, Exception) and not isinstance(error, XhyveError):
            failure = _explain(error, user, key, endpoint)
            if key is not None:
                raise failure from error
        elif key is not None:
            raise
    else:
        transport = client.get_transport()
        assert transport is not None
        return client, Pulse(transport, heard)
    # Without the frames of paramiko: a report that shows variables would show the password.
    raise failure.with_traceback(None)


def _expect(client: paramiko.SSHClient, endpoint: Endpoint, host_keys: Sequence[str]) -> None:
    """Let *client* accept only these *host_keys*."""
    place = known_hosts_name(endpoint)
    for line in host_keys:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{place} {line}")
        if entry is None or entry.key is None:
            raise ConnectionFailed(f"the image's manifest has a line in host_keys that is not a key: {line!r}")
        client.get_host_keys().add(place, entry.key.get_name(), _ExpectedKey(entry.key))


class _ExpectedKey(paramiko.PKey):
    """A host key that is compared by its bytes.

    paramiko compares objects of PyNaCl. These are never equal if PyNaCl's modules were loaded twice, for example in a
    process in which pytest runs inside pytest.
    """

    def __init__(self, key: paramiko.PKey) -> None:
        self._key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, paramiko.PKey) and self.asbytes() == other.asbytes()

    def __hash__(self) -> int:
        return hash(self.asbytes())

    def asbytes(self) -> bytes:
        return self._key.asbytes()

    def get_name(self) -> str:
        return self._key.get_name()


def _quiet(logger: logging.Logger) -> None:
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _load_key(path: Path) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise ConnectionFailed(f"{path} is not a usable private key: {error}") from error


def _explain(error: BaseException, user: str, key: Path | None, endpoint: Endpoint) -> ConnectionFailed:
    place = f"{endpoint.host}:{endpoint.port}"
    if isinstance(error, paramiko.BadHostKeyException):
        return ConnectionFailed(
            f"{place} shows another host key than the one in the image's manifest\n"
            f"  shown:    {error.key.get_name()} {error.key.get_base64()}\n"
            f"  expected: {error.expected_key.get_name()} {error.expected_key.get_base64()}\n"
            "  the image was changed, or the manifest belongs to another image: correct host_keys in the manifest"
        )
    if isinstance(error, paramiko.AuthenticationException) and str(error) == _NO_ANSWER:
        # Also paramiko's class for a refusal. A guest that is slow to check a key does not refuse it.
        return Broken(f"{place} has not answered in time whether {user} may log in")
    if isinstance(error, paramiko.AuthenticationException) and key is None:
        return Refused(
            f"{user} may not log in at {place} with the password that was given\n"
            "  see that the password is right, and that the guest's SSH server takes passwords "
            "(PasswordAuthentication in sshd_config)"
        )
    if isinstance(error, paramiko.AuthenticationException):
        return Refused(
            f"{user} may not log in at {place} with {key}\n"
            "  check that the guest's authorized_keys has the public half of this key, and that user and key in the "
            "manifest are right"
        )
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return ConnectionFailed(
            f"{place} and this paramiko ({paramiko.__version__}) have no algorithm in common: {error}"
        )
    return Broken(f"no SSH session with {place}: {str(error) or type(error).__name__}")
