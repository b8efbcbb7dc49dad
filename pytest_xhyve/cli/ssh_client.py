"""Run OpenSSH's client as a child process: users know how it handles terminals, streams and exit codes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Self

from pytest_xhyve.host.exhaustion import is_readable
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError

FAILED = 255
"""ssh's exit code if ssh itself failed, or if a signal killed the command."""

_ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
_END_SECONDS = 1.0


def find_ssh() -> str:
    """The path of OpenSSH's client.

    Raises:
        XhyveError: it is not installed.
    """
    path = shutil.which("ssh")
    if path is None:
        raise XhyveError(
            "ssh not found in PATH; this command needs OpenSSH's client\n"
            "  install it (Debian and Ubuntu: apt install openssh-client); on a Mac, add /usr/bin to PATH"
        )
    return path


class TerminationSignals:
    """In the block, signals that end a process raise `SystemExit` (128 plus the number) in the main thread.

    So everything that the block owns is removed first. An ignored signal stays ignored, as nohup(1) requires.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._is_blocked = False
        self._received: int | None = None

    def __enter__(self) -> Self:
        for number in _ENDING:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._end)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Delay signals until `raise_blocked`, while something is created that has no owner yet."""
        self._is_blocked = True
        try:
            yield
        finally:
            self._is_blocked = False

    def raise_blocked(self) -> None:
        """Raise `SystemExit` if a signal arrived while signals were blocked."""
        if self._received is not None:
            raise SystemExit(128 + self._received)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number
        if not self._is_blocked:
            self.raise_blocked()


class SshClient:
    """A running client; it shares this process's terminal and standard streams.

    Args:
        pid: its process id; it must be a child of this process, and nothing else may wait for it.
        woken: a descriptor that becomes readable when a child of this process changes its state.
    """

    def __init__(self, pid: int, woken: int) -> None:
        self._pid = pid
        self._woken = woken
        self._code: int | None = None

    def wait(self, timeout: float) -> int | None:
        """The client's exit code as in a shell, or None if it still runs after *timeout* seconds."""
        end = monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                left = end - monotonic()
                if left <= 0:
                    return None
                if is_readable(self._woken, left):
                    os.read(self._woken, 4096)
            elif os.WIFSTOPPED(status):
                # The user typed ssh's escape ~^Z. The shell waits for this process, so this process must stop, too.
                os.kill(os.getpid(), signal.SIGTSTP)
                os.kill(self._pid, signal.SIGCONT)
            else:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code
        return self._code

    def end(self) -> None:
        """End the client if it runs; SIGTERM comes first, so that it can restore the terminal's settings."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.wait(0) is not None:
                return
            os.kill(self._pid, number)
            self.wait(_END_SECONDS)


@contextmanager
def running(
    argv: Sequence[str], signals: TerminationSignals, environment: Mapping[str, str] | None = None
) -> Iterator[SshClient]:
    """Start the client; the block's end ends it.

    Args:
        argv: the command line, which starts with the client's path.
        signals: raises `SystemExit` in the block.
        environment: variables for the client, beside those of this process.
    """
    with ExitStack() as stack:
        woken = stack.enter_context(_woken_by_children())
        with signals.blocked():
            # In this process's group, so that it has the terminal, and gets the terminal's signals.
            pid = os.posix_spawn(argv[0], list(argv), {**os.environ, **(environment or {})}, setsigdef=[signal.SIGPIPE])
            client = SshClient(pid, woken)
            stack.callback(client.end)
        signals.raise_blocked()
        yield client


@contextmanager
def _woken_by_children() -> Iterator[int]:
    """A descriptor that becomes readable when a child of this process exits or stops; only for the main thread."""
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    fd = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGCHLD, before)
        os.close(woken)
        os.close(wake)
