"""OpenSSH's client as a child of ours: what it does with terminals, streams and exit codes is what users know."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Self

from pytest_xhyve.model.errors import XhyveError

FAILED = 255
"""The exit code by which ssh says that it failed itself, or that a signal killed the command."""

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
            "there is no ssh in PATH, and it is OpenSSH's client that talks to the guest\n"
            "  Debian and Ubuntu: apt install openssh-client; a Mac has it in /usr/bin"
        )
    return path


class TerminationSignals:
    """Within the block, signals that end a process raise `SystemExit` with 128 and their number in the main thread.

    So all that the block owns is taken away first. A signal that is ignored stays so, as nohup(1) wants it.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._is_held = False
        self._came: int | None = None

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
    def held(self) -> Iterator[None]:
        """Let a signal wait for the end of the block, where something is made that has no owner before."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def raise_held(self) -> None:
        """Raise for the signal that came while they were held, if one did."""
        if self._came is not None:
            raise SystemExit(128 + self._came)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._came = number
        if not self._is_held:
            self.raise_held()


class SshClient:
    """A client that runs; it has our terminal and our standard streams.

    Args:
        pid: its process id; a child of ours, for which nobody else waits.
        woken: becomes readable when a child of ours changes its state.
    """

    def __init__(self, pid: int, woken: int) -> None:
        self._pid = pid
        self._woken = woken
        self._code: int | None = None

    def wait(self, timeout: float) -> int | None:
        """Its exit code as a shell has it, or None when it still runs after *timeout* seconds."""
        end = time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                if select.select([self._woken], [], [], left)[0]:
                    os.read(self._woken, 4096)
            elif os.WIFSTOPPED(status):
                # By its escape ~^Z: the shell waits for us, and has to see that we stop too.
                os.kill(os.getpid(), signal.SIGTSTP)
                os.kill(self._pid, signal.SIGCONT)
            else:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code
        return self._code

    def end(self) -> None:
        """End it, if it runs: in a way that lets it put the terminal in order, if it can."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.wait(0) is not None:
                return
            os.kill(self._pid, number)
            self.wait(_END_SECONDS)


@contextmanager
def running(argv: Sequence[str], signals: TerminationSignals) -> Iterator[SshClient]:
    """Start the client *argv*, whose first word is its path, and yield it; it does not outlive the block."""
    with ExitStack() as stack:
        woken = stack.enter_context(_woken_by_children())
        with signals.held():
            # In our process group, so that it has the terminal, and gets its signals.
            pid = os.posix_spawn(argv[0], list(argv), os.environ, setsigdef=[signal.SIGPIPE])
            client = SshClient(pid, woken)
            stack.callback(client.end)
        signals.raise_held()
        yield client


@contextmanager
def _woken_by_children() -> Iterator[int]:
    """A descriptor that becomes readable when a child of ours ends or stops; for the main thread only."""
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
