"""An SSH server that misbehaves, in this process: a real one, whose bytes are cut, changed and delayed on their way."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples

from pytest_xhyve.guest import ssh
from pytest_xhyve.hypervisors.base import Endpoint
from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.model.errors import ConnectionFailed

logging.getLogger("test.any").setLevel(logging.CRITICAL + 1)
SECONDS = 0.5
SILENT_SECONDS = 0.15
"""For a server that behaves no more: how long the plugin waits does not change what it answers."""
Spoil = Callable[[int, bytes], bytes | None]
"""Changes a chunk of bytes, of which that many came before; None hangs up."""


class _Server(paramiko.ServerInterface):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002  # as paramiko calls it
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002  # as paramiko calls it
        return "publickey"


@contextlib.contextmanager
def spoiled_server(host_key: paramiko.PKey, spoil: Spoil) -> Iterator[tuple[socket.socket, Endpoint]]:
    """A connection to an SSH server, all of whose bytes go through *spoil*."""
    with contextlib.ExitStack() as stack:
        ours, middle = map(stack.enter_context, socket.socketpair())
        behind, server = map(stack.enter_context, socket.socketpair())
        transport = paramiko.Transport(server)
        transport.set_log_channel("test.any")
        transport.add_server_key(host_key)
        # Started before the client speaks; it negotiates in its own thread.
        transport.start_server(event=threading.Event(), server=_Server())

        def forward(source: socket.socket, target: socket.socket, change: Spoil) -> None:
            came = 0
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 14):
                    changed = change(came, data)
                    if changed is None:
                        break
                    came += len(data)
                    target.sendall(changed)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threads = [
            threading.Thread(target=forward, args=(behind, middle, spoil)),
            threading.Thread(target=forward, args=(middle, behind, lambda _, data: data)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield ours, Endpoint("127.0.0.1", 22)
        finally:
            for end in (ours, middle, behind, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            transport.close()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[paramiko.PKey, str, Path]:
    """The server's key, its public half as a line, and the file of the client's key."""
    pair = KeyPair.generate()
    file = tmp_path_factory.mktemp("keys") / "key"
    file.write_bytes(pair.private)
    file.chmod(0o600)
    return paramiko.PKey.from_path(file), pair.public, file


def log_in(keys: tuple[paramiko.PKey, str, Path], spoil: Spoil, seconds: float = SECONDS) -> bool:
    """Whether the plugin logs in, if no step may take more than *seconds*; any error but its own fails the test."""
    key, line, file = keys
    begin = time.monotonic()
    with spoiled_server(key, spoil) as (connection, endpoint):
        try:
            client, _ = ssh.log_in(connection, endpoint, user="root", key=file, host_keys=[line], timeout=seconds)
        except (ssh.Broken, ssh.Refused, ConnectionFailed):
            return False
        else:
            client.close()
            return True
        finally:
            # Each step has its limit; there are no more than a handful.
            assert time.monotonic() - begin < 10 * SECONDS


def test_server_that_behaves(keys: tuple[paramiko.PKey, str, Path]) -> None:
    assert log_in(keys, lambda _, data: data)


@pytest.mark.parametrize("part", [0, 0.2, 0.8])
def test_login_ends_although_a_test_has_stopped_the_clock(
    keys: tuple[paramiko.PKey, str, Path], part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko counts by `time.time`, and this server becomes silent after a part of the login."""
    sent = [0]

    def count(came: int, data: bytes) -> bytes:
        sent.append(came + len(data))
        return data

    # Another version of paramiko may send less.
    assert log_in(keys, count)
    at = int(max(sent) * part)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert not log_in(keys, lambda came, data: data if came + len(data) <= at else b"", SILENT_SECONDS)


@examples(25)
@given(at=st.integers(0, 3000), flip=st.integers(1, 255))
@example(at=0, flip=1)
@example(at=30, flip=128)
# A list of algorithms that is longer, and so not UTF-8.
@example(at=46, flip=1)
def test_any_byte_is_another(keys: tuple[paramiko.PKey, str, Path], at: int, flip: int) -> None:
    def spoil(came: int, data: bytes) -> bytes:
        place = at - came
        if not 0 <= place < len(data):
            return data
        return data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]

    log_in(keys, spoil, SILENT_SECONDS)


@examples(25)
@given(at=st.integers(0, 3000), more=st.none() | st.binary(max_size=2000))
@example(at=0, more=b"SSH-2.0-" + b"x" * 300)
@example(at=0, more=b"SSH-2.0-x\r\n\xff\xff\xff\xff")
@example(at=0, more=b"\r\n" * 1000)
def test_any_bytes_in_the_place_of_the_rest(keys: tuple[paramiko.PKey, str, Path], at: int, more: bytes | None) -> None:
    """The server sends its first *at* bytes, then *more*, and is silent; or it hangs up."""
    sent: list[bool] = []

    def spoil(came: int, data: bytes) -> bytes | None:
        if came + len(data) <= at:
            return data
        if sent or more is None:
            return b"" if sent else None
        sent.append(True)
        return data[: max(0, at - came)] + more

    log_in(keys, spoil, SILENT_SECONDS)
