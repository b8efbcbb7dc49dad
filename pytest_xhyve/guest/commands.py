"""Run a command in a guest over SSH."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import paramiko

from pytest_xhyve.guest.connection import LOOK_SECONDS, Connection, is_long
from pytest_xhyve.guest.shell import ShellLine
from pytest_xhyve.guest.transcript import LineLogger
from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.completed import RUNNING, Completed
from pytest_xhyve.model.errors import CommandFailed, CommandTimeout, XhyveError
from pytest_xhyve.model.values import format_size

_CHUNK = 1 << 16
# Both ends of a stream are in the error's report.
_KEPT = 1 << 10
# A guest that has not answered for so long may be why a command is late.
_SILENT_SECONDS = 2.0
_SHOWN = 200


@dataclass(slots=True)
class _Stream:
    """The output on one stream so far."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    log: LineLogger | None = None

    def add(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.log is not None:
            self.log.feed(chunk)

    def text(self) -> str:
        return b"".join(self.chunks).decode(errors="surrogateescape")

    def ends(self) -> str:
        """The beginning and the end of a stream that is too long."""
        data = b"".join(self.chunks)
        if len(data) <= 2 * _KEPT:
            return self.text()
        omitted = f"\n[{len(data) - 2 * _KEPT} bytes omitted]\n".encode()
        return (data[:_KEPT] + omitted + data[-_KEPT:]).decode(errors="surrogateescape")


def run(
    connection: Connection,
    line: ShellLine,
    *,
    shown: str,
    check: bool,
    timeout: float | None,
    input: bytes | None,  # noqa: A002
    most: int,
    tty: bool = False,
    patience: float | None = None,
    stream: bool = False,
) -> Completed:
    """Run the shell line *line* and read both its streams to the end.

    Args:
        connection: to the guest.
        line: for the guest's shell.
        shown: the command as the caller wrote it.
        check: raise `CommandFailed` if the exit code is not 0.
        timeout: the limit in seconds, or None for no limit.
        input: its standard input, or None for an empty one.
        most: how many bytes it may print.
        tty: whether it gets a terminal.
        patience: for how many seconds the guest may be silent; None for all of *timeout*, or without it for one step.
        stream: whether its output is logged while it runs.

    Raises:
        CommandFailed: with *check*, if the exit code was not 0.
        CommandTimeout: it did not end in time; the error contains its output until then.
        ConnectionFailed: the guest did not answer for too long, or the connection was lost.
        XhyveError: it printed too much.
    """
    __tracebackhide__ = True
    start = monotonic()
    end = None if timeout is None else start + timeout
    stdout, stderr = _Stream(), _Stream()
    if stream:
        stdout.log, stderr.log = (LineLogger(connection.name, name) for name in ("stdout", "stderr"))
    what = f"run {_short(shown)}"
    check_guest = connection.checker(what, math.inf if timeout is not None and patience is None else patience)

    def completed(code: int) -> Completed:
        too_much = stdout.size + stderr.size > most
        texts = [stream.ends() if too_much else stream.text() for stream in (stdout, stderr)]
        return Completed(shown, code, texts[0], texts[1], monotonic() - start)

    try:
        code, in_time = _talk(connection, line, what, (stdout, stderr), end, check_guest, input, tty=tty, most=most)
    except BaseException as error:
        # Such as the one of pytest-timeout, or Ctrl-C.
        until_then = completed(-1)
        if until_then.stdout or until_then.stderr or not isinstance(error, XhyveError):
            error.add_note(f"{RUNNING}{connection.name}; its output until then:\n{until_then.report()}")
        raise
    finally:
        for log in (stdout.log, stderr.log):
            if log is not None:
                log.end()
    if stdout.size + stderr.size > most:
        raise XhyveError(
            f"command printed more than {format_size(most)} and was ended\n"
            "  write its output to a file and get() it, or pass max_output= to run()\n" + completed(-1).report()
        )
    if not in_time:
        assert timeout is not None
        late = CommandTimeout(completed(-1), timeout)
        silent = connection.silence()
        if silent > _SILENT_SECONDS:
            late.add_note(f"the guest did not answer over SSH for the last {silent:.0f} s")
        raise late
    if code == -1 and not connection.transport.is_active():
        lost = connection.lost(what, EOFError("it ended while the command ran"), line.text)
        if check or is_long(line.text):
            lost.add_note(completed(-1).report())
            raise lost
    if check and code != 0:
        raise CommandFailed(completed(code))
    return completed(code)


def _short(shown: str) -> str:
    text = repr(shown[:_SHOWN])
    return text if len(shown) <= _SHOWN else f"{text}… ({format_size(len(shown.encode(errors='replace')))})"


def _talk(
    connection: Connection,
    line: ShellLine,
    what: str,
    streams: tuple[_Stream, _Stream],
    end: float | None,
    check_guest: Callable[[], None],
    data: bytes | None,
    *,
    tty: bool,
    most: int,
) -> tuple[int, bool]:
    """Run *line*; return its exit code, or -1 if it has none, and whether it ended in time."""
    __tracebackhide__ = True
    channel = connection.begin(line.text, what, check_guest, end, tty=tty)
    if channel is None:
        return -1, False
    with channel:
        if line.first_input or data:
            threading.Thread(target=_write, args=(channel, line, data or b""), daemon=True).start()
        else:
            channel.shutdown_write()
        in_time = _read_to_end(channel, streams, end, check_guest, most)
        return (channel.recv_exit_status() if in_time and channel.exit_status_ready() else -1), in_time


def _read_to_end(
    channel: paramiko.Channel,
    streams: tuple[_Stream, _Stream],
    end: float | None,
    check_guest: Callable[[], None],
    most: int,
) -> bool:
    """Read both streams, so that neither can fill its window; False if the command did not end in time."""
    __tracebackhide__ = True
    descriptor = channel.fileno()
    readers = (
        (channel.recv_ready, channel.recv, streams[0]),
        (channel.recv_stderr_ready, channel.recv_stderr, streams[1]),
    )
    while True:
        # Asked before reading: later output is read in the next round.
        over = channel.closed or (channel.eof_received and channel.exit_status_ready())
        left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - monotonic())
        got = False
        for ready, receive, stream in readers:
            while ready() and streams[0].size + streams[1].size <= most:
                stream.add(receive(_CHUNK))
                got = True
                if left <= 0:
                    break
        if streams[0].size + streams[1].size > most:
            return True
        if left <= 0 and not over:
            return False
        if got:
            continue
        if over:
            return True
        if channel.eof_received:
            channel.status_event.wait(left)
            check_guest()
        elif not is_readable(descriptor, left):
            check_guest()


def _write(channel: paramiko.Channel, line: ShellLine, data: bytes) -> None:
    try:
        channel.sendall(line.first_input + data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        # The command ended before it had read all of it, as `head` does; or the connection was lost.
        return
