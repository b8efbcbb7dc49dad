"""Watch the running guests of this user."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from pytest_xhyve.cli.cache_listing import CacheListing
from pytest_xhyve.cli.console_client import attach, forget_answers
from pytest_xhyve.cli.guests import find_running
from pytest_xhyve.cli.running_shell import run_shell_in
from pytest_xhyve.cli.ssh_client import FAILED
from pytest_xhyve.guest.ssh_config import CONFIG
from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import GuestRecord, kill_hypervisor
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import format_size

if TYPE_CHECKING:
    from rich.console import Group

_HEADS = ("GUEST", "IMAGE", "STATE", "AGE", "CPU", "MEMORY", "DISK", "TEST", "CONSOLE")
_RIGHT = ("AGE", "CPU", "MEMORY", "DISK")
_LAST_BYTES = 4096
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_UP, _DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")
_END = "q"
# More than an answer of a terminal has, which comes as a whole then and is not a key.
_CHUNK = 4096
_KEYS = "up/down choose · c console · s shell · e end · q leave"


@dataclass(frozen=True, slots=True)
class Row:
    """What is shown of a guest.

    Attributes:
        guest: the guest.
        state: ``starting``, ``ready`` or ``kept``.
        cpu: percent of one CPU since the last look.
        memory: bytes.
        disk: bytes of its files.
        line: the last line of its console.
    """

    guest: GuestRecord
    state: str
    cpu: float
    memory: int
    disk: int
    line: str

    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `_HEADS`."""
        guest = self.guest
        return (
            guest.name,
            guest.image,
            self.state,
            f"{time.time() - guest.started:.0f} s",
            f"{self.cpu:.0f} %",
            format_size(self.memory),
            format_size(self.disk),
            printable(str(guest.kept["by"]) if guest.kept else guest.test),
            self.line,
        )


class Watch:
    """Looks at the running guests in *home*, again and again."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._processes: dict[tuple[int, float], psutil.Process] = {}

    def look(self) -> list[Row]:
        """The guests that run now; the first look at a guest finds no use of its CPU."""
        rows = []
        processes = {}
        for guest in find_running(self._home):
            key = (guest.pid, guest.started)
            try:
                process = processes[key] = self._processes.get(key) or psutil.Process(guest.pid)
                with process.oneshot():
                    cpu, memory = process.cpu_percent(), process.memory_info().rss
            except psutil.Error:
                # It has ended meanwhile.
                continue
            state = "kept" if guest.kept else "ready" if (guest.folder / CONFIG).exists() else "starting"
            rows.append(Row(guest, state, cpu, memory, size_on_disk(guest.folder), last_line(guest)))
        self._processes = processes
        return rows

    def cache(self) -> str:
        """What the cache holds, in one line."""
        listing = CacheListing.scan(self._home)
        templates = sum(template.size for template in listing.templates)
        used = sum(template.in_use for template in listing.templates)
        images = sum(image.size or 0 for image in listing.images)
        count = len(listing.templates)
        return f"templates: {count} ({used} in use), {format_size(templates)} · images: {format_size(images)}"


def last_line(guest: GuestRecord) -> str:
    """The last line on the console of *guest* that is not empty."""
    try:
        with (guest.folder / CONSOLE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            text = _ESCAPES.sub("", log.read().decode(errors="replace"))
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return printable(next((line for line in reversed(lines) if line), ""))


def listing(home: Home, seconds: float) -> Iterator[str]:
    """The lines of one plain listing, with the use of CPU over *seconds*."""
    watch = Watch(home)
    if watch.look():
        time.sleep(seconds)
    rows = [row.cells() for row in watch.look()]
    widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
    for cells in (_HEADS, *rows) if rows else ():
        aligned = (
            text.rjust(width) if head in _RIGHT else text.ljust(width)
            for head, text, width in zip(_HEADS, cells, widths, strict=True)
        )
        yield "  ".join(aligned).rstrip()
    if not rows:
        yield "no guests"
    yield watch.cache()


def watch(home: Home, interval: float) -> None:
    """Show the guests on the terminal until the user leaves."""
    # Heavy, and only for a terminal.
    from rich.live import Live  # noqa: PLC0415

    watching = Watch(home)
    rows = watching.look()
    chosen, message, cache = 0, "", watching.cache()
    while True:
        with _keys(), Live(auto_refresh=False, screen=True) as live:
            while True:
                chosen = max(0, min(chosen, len(rows) - 1))
                live.update(_render(rows, chosen, f"{cache}\n{message or _KEYS}"), refresh=True)
                key = _read_key(interval)
                if key:
                    message = ""
                if key in (_END, "\x03"):
                    return
                if key in _UP:
                    chosen -= 1
                elif key in _DOWN:
                    chosen += 1
                elif key == "e" and rows:
                    guest = rows[chosen].guest
                    # What was typed before the question does not answer it.
                    termios.tcflush(sys.stdin, termios.TCIFLUSH)
                    live.update(_render(rows, chosen, f"{cache}\nend {guest.name}? y or n"), refresh=True)
                    if _read_key(None) == "y":
                        message = f"ended {guest.name}" if kill_hypervisor(guest) else f"{guest.name} has ended already"
                elif key in ("c", "s") and rows:
                    break
                if not key:
                    rows, cache = watching.look(), watching.cache()
        # Outside of the block, as the terminal is needed.
        message = _open(rows[chosen].guest, console=key == "c")
        rows = watching.look()


def _open(guest: GuestRecord, *, console: bool) -> str:
    """Give the terminal to a console or a shell of *guest*; return a message if that is impossible."""
    try:
        if console:
            attach(guest.folder, guest.name)
        else:
            code = run_shell_in(guest)
            forget_answers()
            if code == FAILED:
                # The list covers what ssh printed.
                name = guest.name
                return f"ssh did not log in to {name}, or lost the connection: `pytest-xhyve shell {name}` shows why"
    except XhyveError as error:
        return str(error)
    return ""


def _render(rows: Sequence[Row], chosen: int, below: str) -> Group:
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, expand=True, pad_edge=False)
    for head in _HEADS:
        table.add_column(
            head,
            justify="right" if head in _RIGHT else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if head in ("TEST", "CONSOLE") else None,
        )
    for number, row in enumerate(rows):
        # Not a string, in which rich would look for markup.
        table.add_row(*map(Text, row.cells()), style="reverse" if number == chosen else "")
    return Group(table if rows else Text("no guests"), Text(""), Text(below))


@contextmanager
def _keys() -> Iterator[None]:
    """Let each key arrive at once, without echo."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        # The terminal may be gone.
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _read_key(seconds: float | None) -> str:
    """The next key, or nothing if none comes in *seconds*; `_END` if the terminal is gone."""
    end = None if seconds is None else monotonic() + seconds
    left = None if end is None else max(0.0, end - monotonic())
    if not select.select([sys.stdin], [], [], left)[0]:
        return ""
    try:
        typed = os.read(sys.stdin.fileno(), _CHUNK)
    except OSError:
        typed = b""
    return typed.decode(errors="replace") if typed else _END
