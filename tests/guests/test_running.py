"""Guests of a run, seen and used from another terminal: top, console, shell."""

from __future__ import annotations

import re
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
