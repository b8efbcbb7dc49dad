"""Attach this terminal to a guest's serial console."""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.hypervisors.qemu.monitor import connected
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import NotSupported, XhyveError

LEAVE = b"\x1d"
"""Ctrl-], the key that leaves, as in telnet(1)."""

_SOCKET = "console.sock"
_CHUNK = 1 << 16
_SHOWN = 1 << 12
_QUIET_SECONDS = 1.0
# A terminal on this host answers at once; one at the other end of an SSH connection takes a round trip.
_ANSWER_SECONDS = 0.2
_ANSWERS_SECONDS = 2.0
# What a guest may leave switched on, switched off: the other screen, reports of the mouse and of the focus, bracketed
# paste, the other character set, a hidden cursor, and what a soft reset ends (DECSTR): the margins, the colours, the
# keypad's mode (ctlseqs of xterm).
_USUAL = (
    b"\x1b[?1047l\x1b[?9;1000;1001;1002;1003;1004;1005;1006;1015;1016l\x1b[?2004l\x0f\x1b(B\x1b[!p\x1b[?1l\x1b>\x1b[?7h"
    b"\x1b[?25h\x1b[0m"
)


def attach(folder: Path, name: str) -> None:
    """Copy between this terminal and the console of the running guest *name*.

    This ends with Ctrl-], with the guest, or with standard input.

    The guest's output reaches the terminal as it is, as over SSH: the user asked for the guest's terminal. When this
    ends, the terminal's usual modes are set, and what it has answered to the guest's questions is read away: the user's
    shell would take it for typed text.

    Args:
        folder: the guest's folder.
        name: the guest's name, for messages.

    Raises:
        NotSupported: the guest's hypervisor has no socket for its console.
        XhyveError: the guest has ended, or another program is attached.
    """
    if not (folder / _SOCKET).exists():
        raise NotSupported(f"guest {name}: only the console of a guest under QEMU can be attached to")
    click.echo(f"attached to the console of {name}; Ctrl-] leaves", err=True)
    with ExitStack() as stack:
        try:
            console = stack.enter_context(connected(folder, _SOCKET))
        except OSError as error:
            raise XhyveError(f"cannot attach to the console of {name}: {error.strerror}") from error
        stack.enter_context(_raw_terminal())
        _show(_last_lines(folder / CONSOLE))
        try:
            _copy(console)
        except TimeoutError as error:
            raise XhyveError(f"guest {name} does not take what is typed on its console") from error
    click.echo(f"\nleft the console of {name}", err=True)


def _copy(console: socket.socket) -> None:
    output = console.fileno()
    watched = [output, 0]
    while True:
        # What is typed by a file gets its answer; then no more is expected.
        ready, _, _ = select.select(watched, [], [], None if 0 in watched else _QUIET_SECONDS)
        if not ready:
            return
        if output in ready:
            try:
                data = console.recv(_CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                return
            _show(data)
        if 0 in ready:
            typed = os.read(0, _CHUNK)
            before, leave, _ = typed.partition(LEAVE)
            with suppress(BrokenPipeError):
                console.sendall(before)
            if leave:
                return
            if not typed:
                # Standard input has ended.
                watched.remove(0)


def _show(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _last_lines(log: Path) -> bytes:
    """The end of what the console has shown, from the beginning of a line."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SHOWN))
        data = file.read()
    return data if size <= _SHOWN else data.partition(b"\n")[2]


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let the guest's terminal see each key; without a terminal, do nothing."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        if sys.stdout is not None and sys.stdout.isatty():
            with suppress(OSError):
                _show(_USUAL)
        forget_answers()
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


def forget_answers() -> None:
    """Read away what the terminal on standard input answers to questions that a guest has asked it."""
    end = monotonic() + _ANSWERS_SECONDS
    with suppress(OSError):
        while monotonic() < end and select.select([0], [], [], _ANSWER_SECONDS)[0] and os.read(0, _CHUNK):
            pass
