"""An SSH connection to a guest, and what every wait on it has in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

import paramiko

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConnectionFailed, XhyveError
from pytest_xhyve.model.values import format_size

LOOK_SECONDS = 0.25
# A limit of paramiko's that is never reached: the caller checks the guest meanwhile.
_OPENING_SECONDS = 86400.0
_AGAIN_SECONDS = 0.1
# Dropbear takes a packet of this size, and OpenSSH one of 256 KiB.
_LONG_LINE = 30_000
_REFUSED_SECONDS = 5.0
_TERMINAL = ("xterm", 80, 24)

_Result = TypeVar("_Result")


class _NotOpened(Exception):
    """The connection was lost before a command could start."""


@dataclass(slots=True)
class Connection:
    """A logged-in connection to a guest, and how to find out what happened to the guest.

    Attributes:
        name: the guest's name.
        transport: paramiko's.
        check_answers: raises if the guest has stopped, or has not answered for some seconds since a given time.
        explain_loss: raises if the guest has stopped; call it when the connection is lost.
        silence: for how many seconds the guest has not answered.
        step: for how many seconds a guest may not answer.
        sessions: the channels of the commands that the plugin runs.
        reconnect: opens another connection, and returns its transport and sessions; None if there shall be no other.
    """

    name: str
    transport: paramiko.Transport
    check_answers: Callable[[float, float], None]
    explain_loss: Callable[[], None]
    silence: Callable[[], float]
    step: float
    sessions: set[paramiko.Channel] = field(default_factory=set)
    reconnect: Callable[[], tuple[paramiko.Transport, set[paramiko.Channel]]] | None = None

    @property
    def stall(self) -> float:
        """For how many seconds a copy may stand still in a guest that answers; a silent guest is noticed before."""
        return 2 * self.step

    def checker(self, what: str, patience: float | None = None) -> Callable[[], None]:
        """A check for a wait that begins now; call it several times a second.

        It raises if the guest has stopped, or has not answered for *patience* seconds, by default for `step`. The
        error states that *what* failed.
        """
        begin = monotonic()
        most = self.step if patience is None else patience

        def check() -> None:
            try:
                self.check_answers(begin, most)
            except ConnectionFailed as error:
                raise broken(f"cannot {what}: {error}") from None

        return check

    def lost(self, what: str, error: BaseException, line: str = "") -> ConnectionFailed:
        """The error if *what* failed since the connection was lost; raises another one if the guest has stopped.

        Args:
            what: what failed.
            error: how it was noticed.
            line: the command's line; a server closes the connection if the line is too long.
        """
        self.explain_loss()
        message = f"cannot {what}: the SSH connection was lost ({str(error) or type(error).__name__})"
        if is_long(line):
            message += (
                f"\n  the command has {format_size(len(line))}, which may be more than the guest's SSH server takes"
                "\n  pass data by input=, or copy it by put()"
            )
        return broken(message)

    def begin(
        self, line: str, what: str, check: Callable[[], None], end: float | None = None, *, tty: bool = False
    ) -> paramiko.Channel | None:
        """Start *line* on a new channel; None if it is not started at *end* on the monotonic clock, nor later.

        If the guest's SSH server has no session left (MaxSessions of OpenSSH), wait until a command ends. If the
        connection is lost before the command starts, connect again, once.

        Raises:
            ConnectionFailed: the connection was lost, so that *what* failed.
        """
        try:
            return self._begin(line, what, check, end, tty=tty)
        except _NotOpened as error:
            cause = error.__cause__ or error
            if self.reconnect is None:
                raise self.lost(what, cause, line) from cause
        self.explain_loss()
        self.transport, self.sessions = self.reconnect()
        try:
            return self._begin(line, what, check, end, tty=tty)
        except _NotOpened as error:
            cause = error.__cause__ or error
            raise self.lost(what, cause, line) from cause

    def _begin(
        self, line: str, what: str, check: Callable[[], None], end: float | None, *, tty: bool
    ) -> paramiko.Channel | None:
        given_up = threading.Event()

        def start() -> paramiko.Channel | None:
            begin = monotonic()
            while True:
                try:
                    return self._start(line, given_up, tty=tty)
                except paramiko.SSHException as error:
                    # OpenSSH refuses the session, Dropbear the command.
                    if not self.transport.is_active() or is_long(line):
                        raise
                    if not self._is_busy() and monotonic() > begin + _REFUSED_SECONDS:
                        raise ConnectionFailed(
                            f"cannot {what}: the guest's SSH server starts no more commands ({error})\n"
                            "  close the sessions that the test has opened by guest.ssh, or raise MaxSessions in the "
                            "guest's sshd_config"
                        ) from error
                    if given_up.wait(_AGAIN_SECONDS):
                        raise

        try:
            return supervise(start, check, end)
        except TimeoutError:
            return None
        except (XhyveError, _NotOpened):
            raise
        except Exception as error:
            # paramiko raises whatever ended its own thread.
            raise self.lost(what, error, line) from error
        finally:
            given_up.set()

    def _is_busy(self) -> bool:
        # A copy, since other threads start commands meanwhile.
        return any(not each.closed for each in tuple(self.sessions))

    def _start(self, line: str, given_up: threading.Event, *, tty: bool) -> paramiko.Channel | None:
        try:
            channel = self.transport.open_session(timeout=_OPENING_SECONDS)
        except Exception as error:
            # As above, this may be any error.
            if self.transport.is_active():
                raise
            raise _NotOpened from error
        if given_up.is_set():
            channel.close()
            return None
        if tty:
            channel.get_pty(*_TERMINAL)
        # paramiko takes bytes, too, but its type hint does not mention them.
        channel.exec_command(cast(str, line.encode(errors="surrogateescape")))
        self.sessions.difference_update([each for each in tuple(self.sessions) if each.closed])
        self.sessions.add(channel)
        return channel


def is_long(line: str) -> bool:
    """Whether *line* may be longer than an SSH server takes."""
    return len(line) > _LONG_LINE


def broken(message: str) -> ConnectionFailed:
    """The error for a connection that was lost."""
    error = ConnectionFailed(message)
    error.broke = True
    return error


def supervise(work: Callable[[], _Result], check: Callable[[], None], end: float | None = None) -> _Result:
    """Do *work*, which may block for ever, in a thread; call *check* meanwhile, which may raise.

    Raises:
        TimeoutError: it was not done at *end* on the monotonic clock. The thread ends when the connection is closed.
        paramiko.SSHException: as *work* raises it, or for any error that ended paramiko's own thread.
    """
    done: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while True:
        left = LOOK_SECONDS if end is None else min(LOOK_SECONDS, end - monotonic())
        thread.join(max(0.0, left))
        if not thread.is_alive():
            break
        if left <= 0:
            raise TimeoutError
        check()
    if failed:
        raise failed[0]
    return done[0]
