"""Run a command in a guest over SSH."""

from __future__ import annotations

import math
import select
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import paramiko

from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import CommandFailed, CommandTimeout, XhyveError

_CHUNK = 1 << 16
_LOOK_SECONDS = 0.25
# No limit of paramiko's own: the caller's limit ends the wait, or the death of the guest.
_OPENING_SECONDS = 86400.0


def shell_line(
    command: str | Sequence[str],
    *,
    env: Mapping[str, str] | None,
    user: str | None,
    login_user: str,
    timeout: float | None,
) -> str:
    """The line for the guest's shell that runs *command* as asked.

    Args:
        command: a shell line, or the arguments of one command.
        env: variables to set.
        user: who runs it, or None for the login user.
        login_user: the user that the plugin logs in as.
        timeout: seconds after which the guest itself ends the command, as a closed connection does not.
    """
    line = command if isinstance(command, str) else shlex.join(command)
    wrapped: list[str] = []
    if user is not None and user != login_user:
        # su is in every guest; the one of BusyBox takes just these options.
        if login_user == "root":
            assignments = [f"{name}={shlex.quote(value)}" for name, value in (env or {}).items()]
            inner = " ".join(["env", *assignments, "sh", "-c", shlex.quote(line)]) if env else line
            wrapped = ["su", "-s", "/bin/sh", "-c", inner, user]
        else:
            wrapped = ["sudo", "-n", "-u", user, "--", "env", *_assignments(env), "sh", "-c", line]
    elif env:
        wrapped = ["env", *_assignments(env), "sh", "-c", line]
    if timeout is not None:
        # A little later than our own limit, which has what came until then.
        limit = f"{math.ceil(timeout) + 1}"
        wrapped = ["timeout", "-s", "KILL", limit, *(wrapped or ["sh", "-c", line])]
    return shlex.join(wrapped) if wrapped else line


def _assignments(env: Mapping[str, str] | None) -> list[str]:
    return [f"{name}={value}" for name, value in (env or {}).items()]


@dataclass(frozen=True, slots=True)
class Connection:
    """A logged-in connection to a guest, and how to tell what became of the guest.

    Attributes:
        transport: paramiko's.
        check_alive: called now and then while waiting; raises when the guest is gone.
        explain_loss: called when the connection is lost; raises when that is because the guest is gone.
        step: seconds that the guest may be silent in the middle of something.
    """

    transport: paramiko.Transport
    check_alive: Callable[[], None]
    explain_loss: Callable[[], None]
    step: float

    def lost(self, what: str, error: Exception) -> XhyveError:
        """The error for *what* could not be done, if it is not that the guest is gone: then that is raised."""
        self.explain_loss()
        return XhyveError(f"cannot {what}: the SSH connection is gone ({error or type(error).__name__})")


def run(
    connection: Connection,
    line: str,
    *,
    shown: str,
    check: bool,
    timeout: float | None,
    input: bytes | None,  # noqa: A002
) -> Completed:
    """Run the shell line *line* and read both its streams to the end.

    Args:
        connection: to the guest.
        line: for the guest's shell.
        shown: the command as the caller wrote it.
        check: raise `CommandFailed` on another code than 0.
        timeout: seconds, or None for as long as it takes.
        input: what it reads on its standard input, or None for nothing.

    Raises:
        CommandFailed: with *check*, when the code was not 0.
        CommandTimeout: it did not end in time; what came until then is in the error.
        XhyveError: the connection broke.
    """
    # What failed is the caller's command, and not this.
    __tracebackhide__ = True
    start = time.monotonic()
    end = None if timeout is None else start + timeout
    streams: tuple[list[bytes], list[bytes]] = ([], [])
    code = -1
    in_time = False
    try:
        channel = begin(connection, line, end)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise connection.lost(f"run {shown!r}", error) from error
    if channel is not None:
        with channel:
            if input:
                threading.Thread(target=_write, args=(channel, input), daemon=True).start()
            else:
                channel.shutdown_write()
            in_time = _read_to_end(channel, streams, end, connection.check_alive)
            if in_time and channel.exit_status_ready():
                code = channel.recv_exit_status()
    stdout, stderr = (b"".join(stream).decode(errors="surrogateescape") for stream in streams)
    completed = Completed(shown, code, stdout, stderr, time.monotonic() - start)
    if timeout is not None and not in_time:
        raise CommandTimeout(completed, timeout)
    if code == -1 and not connection.transport.is_active():
        connection.explain_loss()
    if check and code != 0:
        raise CommandFailed(completed)
    return completed


def begin(connection: Connection, line: str, end: float | None) -> paramiko.Channel | None:
    """Start *line* on a new channel; None when the time is up, and then it is not started later either.

    paramiko waits without a look at anything else for what the guest answers, so it does that in a thread.
    """
    begun: list[paramiko.Channel] = []
    failed: list[Exception] = []
    given_up = threading.Event()

    def ask() -> None:
        try:
            channel = connection.transport.open_session(timeout=_OPENING_SECONDS)
            if given_up.is_set():
                channel.close()
                return
            channel.exec_command(line)
            begun.append(channel)
        except Exception as error:
            # paramiko raises whatever ended its own thread. It is raised again below, unless nothing waits any more.
            failed.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        while True:
            left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
            thread.join(max(0.0, left))
            if not thread.is_alive():
                break
            if left <= 0:
                given_up.set()
                return None
            connection.check_alive()
    except BaseException:
        given_up.set()
        raise
    if failed:
        if isinstance(failed[0], paramiko.SSHException | OSError | EOFError):
            raise failed[0]
        raise paramiko.SSHException(repr(failed[0])) from failed[0]
    return begun[0]


def _read_to_end(
    channel: paramiko.Channel,
    streams: tuple[list[bytes], list[bytes]],
    end: float | None,
    check_alive: Callable[[], None],
) -> bool:
    """Read both streams as they come, so that neither can fill its window; False when the time is up."""
    descriptor = channel.fileno()
    readers = (
        (channel.recv_ready, channel.recv, streams[0]),
        (channel.recv_stderr_ready, channel.recv_stderr, streams[1]),
    )
    while True:
        # Asked before reading: what comes after is read in the next round.
        over = channel.closed or (channel.eof_received and channel.exit_status_ready())
        got = False
        for ready, receive, stream in readers:
            while ready():
                stream.append(receive(_CHUNK))
                got = True
        if got:
            continue
        if over:
            return True
        left = _LOOK_SECONDS if end is None else min(_LOOK_SECONDS, end - time.monotonic())
        if left <= 0:
            return False
        if channel.eof_received:
            channel.status_event.wait(left)
        elif not select.select([descriptor], [], [], left)[0]:
            check_alive()


def _write(channel: paramiko.Channel, data: bytes) -> None:
    try:
        channel.sendall(data)
        channel.shutdown_write()
    except OSError:
        # The command ended before it had read all of it, as `head` does.
        return
