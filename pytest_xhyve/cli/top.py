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
    from rich.live import Live

_HEADS = ("GUEST", "IMAGE", "STATE", "AGE", "CPU", "MEMORY", "DISK", "TEST", "CONSOLE")
_RIGHT = ("AGE", "CPU", "MEMORY", "DISK")
_LAST_BYTES = 4096
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_UP, _DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")
_CONSOLE_KEY, _SHELL_KEY, _END_KEY = "c", "s", "e"
_GONE = "q"
# Also Ctrl-C.
_LEAVE = (_GONE, "\x03")
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

    screen = _Screen(Watch(home))
    while True:
        with _keys(), Live(auto_refresh=False, screen=True) as live:
            key = screen.show_until_left(live, interval)
        if key in _LEAVE:
            return
        # Outside of the block, as the terminal is needed.
        screen.open_chosen(console=key == _CONSOLE_KEY)


class _Screen:
    """The list of the guests, with one that is chosen, and what the keys do to it."""

    def __init__(self, watching: Watch) -> None:
        self._watching = watching
        self._chosen = 0
        self._message = ""
        self._look()

    def show_until_left(self, live: Live, interval: float) -> str:
        """Show the list, and look for the guests again after *interval* seconds; return the key that leaves it."""
        while True:
            self._chosen = max(0, min(self._chosen, len(self._rows) - 1))
            self._show(live, self._message or _KEYS)
            key = _read_key(interval)
            if not key:
                self._look()
                continue
            self._message = ""
            if key in _LEAVE or (key in (_CONSOLE_KEY, _SHELL_KEY) and self._rows):
                return key
            if key in _UP:
                self._chosen -= 1
            elif key in _DOWN:
                self._chosen += 1
            elif key == _END_KEY and self._rows:
                self._end_chosen(live)

    def open_chosen(self, *, console: bool) -> None:
        """Give the terminal to a console or a shell of the chosen guest."""
        self._message = _open(self._rows[self._chosen].guest, console=console)
        self._look()

    def _look(self) -> None:
        self._rows, self._cache = self._watching.look(), self._watching.cache()

    def _show(self, live: Live, below: str) -> None:
        live.update(_render(self._rows, self._chosen, f"{self._cache}\n{below}"), refresh=True)

    def _end_chosen(self, live: Live) -> None:
        """Ask whether to end the chosen guest, and do so."""
        guest = self._rows[self._chosen].guest
        # What was typed before the question does not answer it.
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        self._show(live, f"end {guest.name}? y or n")
        if _read_key(None) == "y":
            self._message = f"ended {guest.name}" if kill_hypervisor(guest) else f"{guest.name} has ended already"


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
    """The next key, or nothing if none comes in *seconds*; `_GONE` if the terminal is gone."""
    end = None if seconds is None else monotonic() + seconds
    left = None if end is None else max(0.0, end - monotonic())
    if not select.select([sys.stdin], [], [], left)[0]:
        return ""
    try:
        typed = os.read(sys.stdin.fileno(), _CHUNK)
    except OSError:
        typed = b""
    return typed.decode(errors="replace") if typed else _GONE
