"""The streams of a command in a guest that may be hostile, or die."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest

from pytest_xhyve.guest import streams
from pytest_xhyve.guest.connection import Connection
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.guest.streams import Input, Output, running
from pytest_xhyve.model.errors import BootFailed, XhyveError


class Channel:
    """As paramiko's: it sends *output* and *messages*, and then ends with *code*; None means that it is lost."""

    def __init__(self, output: Callable[[int], bytes], messages: bytes = b"", code: int | None = 0) -> None:
        self._output, self._messages, self._code = output, messages, code
        self._pair = socket.socketpair()
        self.closed = False
        self.eof_received = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def exec_command(self, line: bytes) -> None:
        self.line = line

    def settimeout(self, timeout: float) -> None:
        self.timeout = timeout

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def recv_ready(self) -> bool:
        self._next = self._output(1 << 17)
        return bool(self._next)

    def recv(self, most: int) -> bytes:
        del most
        return self._next

    def recv_stderr_ready(self) -> bool:
        return bool(self._messages)

    def recv_stderr(self, most: int) -> bytes:
        data, self._messages = self._messages[:most], self._messages[most:]
        return data

    def exit_status_ready(self) -> bool:
        self.closed = self._code is None
        return self._code is not None

    def recv_exit_status(self) -> int | None:
        return self._code

    def end(self) -> None:
        for each in self._pair:
            each.close()


class Transport:
    """As paramiko's: it starts each command on *channel*."""

    def __init__(self, channel: Channel, *, is_active: bool) -> None:
        self._channel, self._is_active = channel, is_active

    def open_session(self, timeout: float) -> Channel:
        del timeout
        return self._channel

    def is_active(self) -> bool:
        return self._is_active


def dead() -> None:
    raise BootFailed("the guest has died", console="")


def connection_of(channel: Channel, *, is_active: bool = True, step: float = 1.0) -> Connection:
    transport: Any = Transport(channel, is_active=is_active)
    return Connection("x", transport, lambda _, __: None, dead, lambda: 0.0, step)


def output_of(channel: Channel) -> Output:
    return Output(connection_of(channel), channel, lambda: None)  # type: ignore[arg-type]


def nothing(most: int) -> bytes:
    del most
    return b""


def test_data_without_end() -> None:
    channel = Channel(bytes)
    with pytest.raises(XhyveError, match="data without end"):
        output_of(channel).result()
    channel.end()


def test_messages_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MAX_MESSAGES", 1 << 18)
    channel = Channel(nothing, messages=bytes(1 << 19))
    with pytest.raises(XhyveError, match="messages without end"):
        output_of(channel).result()
    channel.end()


def test_messages_are_printable() -> None:
    channel = Channel(nothing, messages=b"tar: caf\xe9\x1b[2J\n", code=2)
    assert output_of(channel).result() == (2, r"tar: caf\udce9\x1b[2J")
    channel.end()


def test_death_of_the_guest_is_the_reason() -> None:
    channel = Channel(nothing, code=None)
    connection = connection_of(channel, is_active=False)
    with pytest.raises(BootFailed, match="has died"), running(connection, ShellLine("tar"), "copy") as (_, check):
        Output(connection, channel, check).result()  # type: ignore[arg-type]
    channel.end()


def test_copy_that_stands_still_in_a_guest_that_answers() -> None:
    """As that of a file whose reader waits for ever, such as /proc/kmsg."""
    channel = Channel(nothing)
    channel.eof_received = False
    connection = connection_of(channel, step=0.05)
    with (
        pytest.raises(XhyveError, match=r"cannot copy: the guest answers, but sent or took hardly any data for 0\.1 s"),
        running(connection, ShellLine("cat"), "copy") as (_, check),
    ):
        Output(connection, channel, check).result()  # type: ignore[arg-type]
    channel.end()


def now_and_then(seconds: float) -> Callable[[int], bytes]:
    """A byte every *seconds*, for ever."""
    last = 0.0

    def output(most: int) -> bytes:
        nonlocal last
        del most
        if time.monotonic() - last < seconds:
            return b""
        last = time.monotonic()
        return b"x"

    return output


@pytest.mark.parametrize("stream", ["output", "messages"])
def test_bytes_now_and_then_do_not_keep_a_copy_for_ever(stream: str) -> None:
    channel = Channel(now_and_then(0.01) if stream == "output" else nothing)
    channel.eof_received = False
    if stream == "messages":
        ready = now_and_then(0.01)
        channel.recv_stderr_ready = lambda: bool(ready(1))  # type: ignore[method-assign]
        channel.recv_stderr = lambda most: b"x"[:most]  # type: ignore[method-assign]
    # A descriptor that can be read at once would make the wait spin; the pipe of paramiko's channel is empty then.
    connection = connection_of(channel, step=0.1)
    begin = time.monotonic()
    with (
        pytest.raises(XhyveError, match=r"sent or took hardly any data for 0\.2 s"),
        running(connection, ShellLine("cat"), "copy") as (_, check),
    ):
        Output(connection, channel, check).result()  # type: ignore[arg-type]
    assert time.monotonic() - begin < 10
    channel.end()


def test_guest_that_takes_a_byte_now_and_then() -> None:
    channel = Channel(nothing)

    def send(data: bytes) -> int:
        time.sleep(0.01)
        return len(data[:1])

    channel.send = send  # type: ignore[attr-defined]
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        Input(connection_of(channel, step=0.1), channel).write(bytes(1 << 20))  # type: ignore[arg-type]
    assert time.monotonic() - begin < 5
    channel.end()


def test_time_that_the_host_needs_does_not_count() -> None:
    """A disk that is slow to write to is not a guest that stands still."""
    chunks = iter([b"x" * 100] * 20 + [b""])
    channel = Channel(lambda _: next(chunks))
    output = Output(connection_of(channel, step=0.05), channel, lambda: None)  # type: ignore[arg-type]
    for _ in range(20):
        time.sleep(0.02)
        assert output.read(1 << 10) == b"x" * 100
    channel.end()


def test_items() -> None:
    chunks = iter([b"/a b\0/caf\xe9", b"\0/c\0no end", b""])
    channel = Channel(lambda _: next(chunks))
    assert output_of(channel).read_items(9) == ["/a b", "/caf\udce9", "/c"]
    channel.end()


def test_items_without_end() -> None:
    channel = Channel(lambda most: b"x\0" * (most // 2))
    assert output_of(channel).read_items(3) == ["x", "x", "x"]
    channel.end()
    channel = Channel(lambda most: b"x" * most)
    assert output_of(channel).read_items(3) == []
    channel.end()
