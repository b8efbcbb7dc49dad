"""Guests of a run, seen and used from another terminal: top, console, shell."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from terminals import on_terminal
from warm import fleet_of

from pytest_xhyve import Guest
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.text import printable

COMMAND = [sys.executable, "-m", "pytest_xhyve.cli"]
_MOST_SECONDS = 60.0


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """One for all of these tests."""
    request = ForegroundRequest(GuestSpec(name="seen"), "test_it.py::test_seen")
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(request) as guest:
        yield guest


def test_console_is_attached_and_left(guest: Guest) -> None:
    guest.run("echo said before > /dev/console")
    with on_terminal([*COMMAND, "console", guest.name]) as (terminal, process):
        terminal.wait_for(r"attached to the console of seen; Ctrl-\] leaves[\s\S]*said before")
        # To getty, which waits there.
        terminal.type("somebody\r")
        terminal.wait_for("Password:")
        terminal.type("\x1d")
        terminal.wait_for("left the console of seen")
        assert process.wait(_MOST_SECONDS) == 0
    assert guest.run("true").returncode == 0


def test_answers_of_the_terminal_are_not_typed_into_the_users_shell(guest: Guest) -> None:
    """A guest can ask a terminal for its title or the place of its cursor, and the answer comes as if it were typed."""
    argv = [*COMMAND, "console", guest.name]
    script = f'{shlex.join(argv)}; IFS= read -r line; echo "read: $line"'
    with on_terminal(["sh", "-c", script]) as (terminal, process):
        terminal.wait_for("attached to the console of seen")
        guest.run("printf 'asked\\033[21t\\033[6n\\033[?1003h\\033[?1049h\\033[?25l' > /dev/console")
        terminal.wait_for("asked")
        terminal.type("\x1d")
        terminal.type("\x1b]lrm -rf /; \x1b\\\x1b[1;1R\r")
        terminal.wait_for("left the console of seen")
        terminal.type("mine\r")
        terminal.wait_for("read: mine")
        # No more reports of the mouse, the cursor shows, and the usual screen is there.
        end = terminal.received.rpartition("asked")[2]
        for usual in ("1003", "\x1b[?1047l", "\x1b[?25h"):
            assert usual in end.partition("?1049h")[2]
        assert process.wait(_MOST_SECONDS) == 0


def test_top_shows_what_a_hostile_guest_prints(guest: Guest) -> None:
    hostile = ["\\033]52;c;ZXZpbA==\\007", "\\302\\2332J", "\\342\\200\\256", "\\000", "\\351", "::error::", "\\033[6n"]
    for each in hostile:
        guest.run(f"printf '\\n{each}seen\\n' > /dev/console")
        done = subprocess.run([*COMMAND, "top", "--interval=0.1"], capture_output=True, text=True, check=True)
        assert re.search("seen$", next(line for line in done.stdout.splitlines() if line.startswith("seen "))), each
        assert printable(done.stdout) == done.stdout
    # A line without end, and a screen in which nothing of it does anything.
    guest.run("(printf '\\n'; head -c 100000 /dev/zero | tr '\\0' '\\033'; printf 'end') > /dev/console")
    with on_terminal([*COMMAND, "top", "--interval=0.2"]) as (terminal, process):
        terminal.wait_for(r"x1b\\x1b")
        # An answer of the terminal is no key, however it ends.
        terminal.type("\x1b]l" + "x" * 13 + "q")
        terminal.forget()
        terminal.wait_for("seen")
        terminal.type("e")
        terminal.wait_for("end seen. y or n")
        terminal.type("n")
        terminal.forget()
        terminal.wait_for("seen")
        shown = terminal.shown.replace("\r", "")
        assert printable(shown) == shown
        terminal.type("q")
        assert process.wait(_MOST_SECONDS) == 0
    assert guest.is_healthy()


def test_shell_in_a_running_guest(guest: Guest) -> None:
    for name in (guest.name, guest.uuid):
        done = subprocess.run(
            [*COMMAND, "shell", name], input="hostname; exit 7\n", capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (7, "seen\n"), done.stderr
    guest.kill()
    guest.start()
    # QEMU has another port for the guest now.
    assert f"  Port {guest.port}\n" in (guest.console.path.parent / "ssh_config").read_text()
    done = subprocess.run([*COMMAND, "shell", "not-seen"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "image 'not-seen' not found" in done.stderr


def test_shell_in_a_guest_of_a_cluster() -> None:
    """`ps` and `top` show its name with a number, as several clusters may have a guest of the same name."""
    with fleet_of(Home.of_user(), []) as fleet, start_cluster(fleet, ClusterSpec.parse(node="tiny"), "test") as guests:
        name = guests.node.console.path.parent.name
        done = subprocess.run(
            [*COMMAND, "shell", name], input="hostname\n", capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "node\n"), done.stderr


def test_top_lists_and_watches(guest: Guest) -> None:
    done = subprocess.run([*COMMAND, "top", "--interval=0.1"], capture_output=True, text=True, check=True)
    heads, *rows = done.stdout.splitlines()
    assert heads.split() == ["GUEST", "IMAGE", "STATE", "AGE", "CPU", "MEMORY", "DISK", "TEST", "CONSOLE"]
    (row,) = (row for row in rows if row.startswith("seen "))
    assert re.fullmatch(
        r"seen +tiny +ready +\d+ s +\d+ % +[\d.]+ MiB +[\d.]+ [KM]iB +test_it\.py::test_seen  \S.*", row
    )
    assert rows[-1].startswith("templates: ")
    with on_terminal([*COMMAND, "top", "--interval=0.2"]) as (terminal, process):
        terminal.wait_for("test_it.py::test_seen")
        terminal.type("s")
        terminal.wait_for(r"[#$] ")
        terminal.type("echo in the $((1 + 1))nd shell; exit\r")
        terminal.wait_for("in the 2nd shell")
        terminal.forget()
        terminal.wait_for("seen")
        # Where no login is possible, the reason stays on the screen until the next key.
        config = guest.console.path.parent / "ssh_config"
        stated = config.read_text()
        config.write_text(stated.replace(f"  Port {guest.port}\n", "  Port 1\n"))
        terminal.type("s")
        for _ in range(3):
            terminal.wait_for("ssh did not log in to seen")
            terminal.forget()
        config.write_text(stated)
        terminal.type("q")
        assert process.wait(_MOST_SECONDS) == 0
