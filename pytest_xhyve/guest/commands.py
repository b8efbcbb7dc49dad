"""Run a command in a guest over SSH."""

from __future__ import annotations

import math
import select
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import paramiko

from pytest_xhyve.guest.connection import LOOK_SECONDS, Connection
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import CommandFailed, CommandTimeout

_CHUNK = 1 << 16
# A guest that has not answered for so long may be why a command is late.
_SILENT_SECONDS = 2.0


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


def run(
    connection: Connection,
    line: str,
    *,
    shown: str,
    check: bool,
    timeout: float | None,
    input: bytes | None,  # noqa: A002
    patience: float | None = None,
) -> Completed:
    """Run the shell line *line* and read both its streams to the end.

    Args:
        connection: to the guest.
        line: for the guest's shell.
        shown: the command as the caller wrote it.
        check: raise `CommandFailed` if the exit code is not 0.
        timeout: the limit in seconds, or None for no limit.
        input: its standard input, or None for an empty one.
        patience: for how many seconds the guest may be silent; None for all of *timeout*, or without it for one step.

    Raises:
        CommandFailed: with *check*, if the exit code was not 0.
        CommandTimeout: it did not end in time; the error contains its output until then.
        ConnectionFailed: the guest did not answer for too long, or the connection was lost.
    """
    # What failed is the caller's command, and not this.
    __tracebackhide__ = True
    start = time.monotonic()
    end = None if timeout is None else start + timeout
    streams: tuple[list[bytes], list[bytes]] = ([], [])
    code = -1
    in_time = False
    what = f"run {shown!r}"
    check_guest = connection.checker(what, math.inf if timeout is not None and patience is None else patience)
    channel = connection.begin(line, what, check_guest, end)
    if channel is not None:
        with channel:
            if input:
                threading.Thread(target=_write, args=(channel, input), daemon=True).start()
            else:
                channel.shutdown_write()
            in_time = _read_to_end(channel, streams, end, check_guest)
            if in_time and channel.exit_status_ready():
                code = channel.recv_exit_status()
    stdout, stderr = (b"".join(stream).decode(errors="surrogateescape") for stream in streams)
    completed = Completed(shown, code, stdout, stderr, time.monotonic() - start)
    if timeout is not None and not in_time:
        late = CommandTimeout(completed, timeout)
        silent = connection.silence()
        if silent > _SILENT_SECONDS:
            late.add_note(f"the guest did not answer over SSH for the last {silent:.0f} s")
        raise late
    if code == -1 and not connection.transport.is_active():
        lost = connection.lost(what, EOFError("it ended while the command ran"))
        if check:
            lost.add_note(completed.report())
            raise lost
    if check and code != 0:
        raise CommandFailed(completed)
    return completed


def _read_to_end(
    channel: paramiko.Channel,
    streams: tuple[list[bytes], list[bytes]],
    end: float | None,
    check_guest: Callable[[], None],
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
        left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - time.monotonic())
        if left <= 0:
            return False
        if channel.eof_received:
            channel.status_event.wait(left)
            check_guest()
        elif not select.select([descriptor], [], [], left)[0]:
            check_guest()


def _write(channel: paramiko.Channel, data: bytes) -> None:
    try:
        channel.sendall(data)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        # The command ended before it had read all of it, as `head` does; or the connection was lost.
        return
