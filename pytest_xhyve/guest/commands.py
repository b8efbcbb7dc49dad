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


@dataclass(slots=True)
class _Output:
    """What a command has printed on both streams so far.

    Attributes:
        shown: the command as the caller wrote it.
        most: how many bytes it may print.
        begin: when it began, on the monotonic clock.
    """

    shown: str
    most: int
    begin: float
    stdout: _Stream = field(default_factory=_Stream)
    stderr: _Stream = field(default_factory=_Stream)

    @property
    def is_too_much(self) -> bool:
        return self.stdout.size + self.stderr.size > self.most

    def log_for(self, guest: str) -> None:
        """Log each line from now on as one of *guest*."""
        self.stdout.log, self.stderr.log = (LineLogger(guest, name) for name in ("stdout", "stderr"))

    def end_logs(self) -> None:
        for log in (self.stdout.log, self.stderr.log):
            if log is not None:
                log.end()

    def completed(self, code: int) -> Completed:
        """The command with this exit code; -1 if it has none."""
        texts = [stream.ends() if self.is_too_much else stream.text() for stream in (self.stdout, self.stderr)]
        return Completed(self.shown, code, texts[0], texts[1], monotonic() - self.begin)

    def add_to(self, error: BaseException, guest: str) -> None:
        """Add a note to an *error* that ended the command, such as the one of pytest-timeout, or Ctrl-C."""
        until_then = self.completed(-1)
        if until_then.stdout or until_then.stderr or not isinstance(error, XhyveError):
            error.add_note(f"{RUNNING}{guest}; its output until then:\n{until_then.report()}")


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
    begin = monotonic()
    end = None if timeout is None else begin + timeout
    output = _Output(shown, most, begin)
    if stream:
        output.log_for(connection.name)
    what = f"run {_short(shown)}"
    check_guest = connection.checker(what, math.inf if timeout is not None and patience is None else patience)
    try:
        code, in_time = _talk(connection, line, what, output, end, check_guest, input, tty=tty)
    except BaseException as error:
        output.add_to(error, connection.name)
        raise
    finally:
        output.end_logs()
    if output.is_too_much:
        raise XhyveError(
            f"command printed more than {format_size(most)} and was ended\n"
            "  write its output to a file and get() it, or pass max_output= to run()\n" + output.completed(-1).report()
        )
    if not in_time:
        assert timeout is not None
        raise _timed_out(output, timeout, connection.silence())
    if code == -1 and not connection.transport.is_active():
        lost = connection.lost(what, EOFError("it ended while the command ran"), line.text)
        if check or is_long(line.text):
            lost.add_note(output.completed(-1).report())
            raise lost
    done = output.completed(code)
    if check and code != 0:
        raise CommandFailed(done)
    return done


def _timed_out(output: _Output, timeout: float, silence: float) -> CommandTimeout:
    """The error of a command that did not end in time; the guest has not answered for *silence* seconds."""
    late = CommandTimeout(output.completed(-1), timeout)
    if silence > _SILENT_SECONDS:
        late.add_note(f"the guest did not answer over SSH for the last {silence:.0f} s")
    return late


def _short(shown: str) -> str:
    text = repr(shown[:_SHOWN])
    return text if len(shown) <= _SHOWN else f"{text}… ({format_size(len(shown.encode(errors='replace')))})"


def _talk(
    connection: Connection,
    line: ShellLine,
    what: str,
    output: _Output,
    end: float | None,
    check_guest: Callable[[], None],
    data: bytes | None,
    *,
    tty: bool,
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
        try:
            in_time = _read_to_end(channel, output, end, check_guest)
        except BaseException:
            # What has arrived meanwhile belongs into the error's report.
            _read_what_is_there(channel, output, only_a_piece=True)
            raise
        return (channel.recv_exit_status() if in_time and channel.exit_status_ready() else -1), in_time


def _read_to_end(
    channel: paramiko.Channel, output: _Output, end: float | None, check_guest: Callable[[], None]
) -> bool:
    """Read both streams, so that neither can fill its window; False if the command did not end in time."""
    __tracebackhide__ = True
    descriptor = channel.fileno()
    while True:
        # Asked before reading: later output is read in the next round.
        over = channel.closed or (channel.eof_received and channel.exit_status_ready())
        left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - monotonic())
        got = _read_what_is_there(channel, output, only_a_piece=left <= 0)
        if output.is_too_much:
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


def _read_what_is_there(channel: paramiko.Channel, output: _Output, *, only_a_piece: bool) -> bool:
    """Read what has arrived on both streams, or *only_a_piece* of each; return whether there was anything."""
    got = False
    for ready, receive, stream in (
        (channel.recv_ready, channel.recv, output.stdout),
        (channel.recv_stderr_ready, channel.recv_stderr, output.stderr),
    ):
        while ready() and not output.is_too_much:
            stream.add(receive(_CHUNK))
            got = True
            if only_a_piece:
                break
    return got


def _write(channel: paramiko.Channel, line: ShellLine, data: bytes) -> None:
    try:
        channel.sendall(line.first_input + data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        # The command ended before it had read all of it, as `head` does; or the connection was lost.
        return
