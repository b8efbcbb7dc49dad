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
from pytest_xhyve.model.errors import NotSupported, XhyveError

LEAVE = b"\x1d"
"""Ctrl-], the key that leaves, as in telnet(1)."""

_SOCKET = "console.sock"
_CHUNK = 1 << 16
_SHOWN = 1 << 12
_QUIET_SECONDS = 1.0


def attach(folder: Path, name: str) -> None:
    """Copy between this terminal and the console of the running guest *name*.

    This ends with Ctrl-], with the guest, or with standard input.

    The guest's output reaches the terminal as it is, as over SSH: the user asked for the guest's terminal.

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
        termios.tcsetattr(0, termios.TCSADRAIN, before)
