"""Stand-ins that are started by tests."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from waiting import becomes

POLL_SECONDS = 0.01
# Long, for a machine that has much else to do.
START_SECONDS = 30.0
BOOT_SECONDS = 120.0
# What a guest needs for a quick start, and to be quiet about it.
QUICK = "quiet mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 tsc=reliable no_timer_check"
BRIDGES = ("-s", "0,hostbridge", "-s", "31,lpc")


class Console:
    """Our end of a guest's serial line, which is read all the time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._data = b""
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        with self._lock:
            return self._data.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str, seconds: float = BOOT_SECONDS) -> str:
        """Wait until the whole text has *pattern* in it, and return what comes after it."""
        found: list[str] = []

        def is_there() -> bool:
            match = re.search(pattern, self.text)
            found[:] = [] if match is None else [self.text[match.end() :]]
            return match is not None

        assert becomes(is_there, seconds), f"no {pattern!r} in:\n{self.text}"
        return found[0]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def run(self, command: str) -> str:
        """Have a shell on the line run *command*, and return what it printed."""
        self.wait_for(r"# $")
        before = len(self.text)
        self.type(f"{command}\n")
        assert becomes(lambda: self.text[before:].endswith("# "), BOOT_SECONDS), self.text[before:]
        return self.text[before:].partition("\n")[2].rpartition("\n")[0]

    def close(self) -> None:
        os.close(self._end)
        self._thread.join()
        os.close(self._ended)

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._fd, self._ended], [], [])
            if self._ended in ready:
                return
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self._data += data


class Running:
    """A stand-in that runs, until the ``with`` ends.

    Args:
        argv: program and arguments.
        stdin: its standard input; without one, a socket whose other end is `console`.
        stdout: where its standard output goes; without one, a file, which `stdout` reads.
    """

    def __init__(self, argv: Sequence[str | Path], *, stdin: int | None = None, stdout: int | None = None) -> None:
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.console = Console(ours.fileno())
        with theirs:
            self.process = subprocess.Popen(
                argv,
                stdin=theirs.fileno() if stdin is None else stdin,
                stdout=self._out if stdout is None else stdout,
                stderr=self._err,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.console.close()
        self.socket.close()
        self._out.close()
        self._err.close()

    @property
    def stdout(self) -> str:
        return _content(self._out)

    @property
    def stderr(self) -> str:
        return _content(self._err)

    def lives(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = BOOT_SECONDS) -> int:
        return self.process.wait(seconds)

    def has_qemu(self) -> bool:
        return self.qemu() is not None

    def qemu(self) -> int | None:
        """The process that runs the guest, None if it has not been started."""
        for pid in _children(self.process.pid):
            try:
                name = Path(f"/proc/{pid}/comm").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name.startswith("qemu-system"):
                return pid
        return None


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def state_of(pid: int) -> str | None:
    """The state of a process as proc(5) has it; None if there is none, or only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in {"Z", "X"} else state


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode()
