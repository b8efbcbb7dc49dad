"""The process as C has it: buffered output, functions that run at exit() and only there, and deaths by signal."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# What a FILE that is no terminal holds back (setvbuf(3)).
_BUFFER = 4096

# linux/prctl.h
_PR_SET_NAME = 15

_libc = ctypes.CDLL(None)


class Failed(Exception):
    """Something could not be set up, and has said so: the program ends with code 1."""


class Process:
    """This process; the only way to end it, besides signals."""

    def __init__(self) -> None:
        self._out = b""
        self._at_exit: list[Callable[[], None]] = []
        for fd in range(3):
            _keep_closed(fd)
        _keep_to_ourselves()
        show_words(sys.argv)  # without the interpreter
        # What Python has changed for itself. A signal that whoever started us ignores stays ignored, but for SIGPIPE,
        # of which that cannot be told.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def print(self, text: str) -> None:
        """printf(3): seen at once on a terminal, and elsewhere when the buffer is full or at `exit`."""
        self._out += os.fsencode(text)
        if os.isatty(1):
            self._flush(len(self._out))
        elif len(self._out) > _BUFFER:
            self._flush(_BUFFER)

    def say(self, text: str) -> None:
        """fprintf(3) to stderr, which is not buffered."""
        _write(2, os.fsencode(text))

    def perror(self, text: str, error: int) -> None:
        """perror(3) with errno *error*."""
        self.say(f"{text}: {os.strerror(error)}\n")

    def at_exit(self, function: Callable[[], None]) -> None:
        self._at_exit.append(function)

    def exit(self, code: int) -> NoReturn:
        while self._at_exit:
            self._at_exit.pop()()
        self._flush(len(self._out))
        os._exit(code)

    def abort(self) -> NoReturn:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.die(signal.SIGABRT)

    def die(self, number: signal.Signals) -> NoReturn:
        """End by a signal, as if nobody had ever handled it."""
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
        raise AssertionError(number)

    def _flush(self, size: int) -> None:
        _write(1, self._out[:size])
        self._out = self._out[size:]


def show_words(words: Sequence[str]) -> None:
    """Have ps(1) show these words as this process's command line: fewer than it had, as they are written over it."""
    start, end = (int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    line = b"".join(os.fsencode(word) + b"\0" for word in words)
    ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def show_name(name: str) -> None:
    """Have ps(1) show this name of this process."""
    _libc.prctl(_PR_SET_NAME, name.encode())


def _write(fd: int, data: bytes) -> None:
    """All of it, unless it cannot be written; nobody looks."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return


def _keep_closed(fd: int) -> None:
    """If *fd* is closed, keep other files from getting this number; every use of it goes on failing with EBADF."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        os.open("/", os.O_PATH)


def _keep_to_ourselves() -> None:
    """Let no child have what we were given beside the standard streams: its end must be seen when we end."""
    for name in Path("/proc/self/fd").iterdir():
        if int(name.name) > 2:
            with suppress(OSError):  # the one by which this folder is read
                os.set_inheritable(int(name.name), False)
