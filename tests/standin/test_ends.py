"""How guests end, what signals do, and which exit code tells of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from waiting import becomes

from standin.commandline import Build
from standin.conftest import BUILDS, Start
from standin.running import START_SECONDS, Console, Running, state_of
from standin.test_vmnet import NIC

STDIO = ["-l", "com1,stdio"]
SOON_SECONDS = 10.0


@dataclass(frozen=True)
class End:
    """A way for a guest to end."""

    name: str
    command: str
    codes: tuple[int, int]  # of xhyve, and of hyperkit
    words: tuple[str, ...] = ("-A",)
    cmdline: str = ""


# fmt: off
ENDS = (
    End("reboot", "reboot", (0, 2)),
    End("reboot by keyboard", "reboot", (0, 2), words=(), cmdline="reboot=k"),
    End("power-off", "poweroff", (1, 0)),
    End("power-off without ACPI", "poweroff", (2, 0), words=("-c", "2")),
    End("halt", "halt", (2, 0)),
    End("triple fault", "reboot", (3, 3), cmdline="reboot=t"),
)
# fmt: on


@pytest.fixture(scope="module")
def pidfiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pidfiles")


@pytest.fixture(scope="module")
def ended(start_for_module: Start, kernel: Callable[..., list[str]], pidfiles: Path) -> dict[tuple[str, Build], int]:
    """The exit code of each guest; they run at the same time."""

    def words(end: End, build: Build) -> list[str]:
        pidfile = [] if build == "v0.2.0" else ["-F", str(pidfiles / f"{end.name} {build}")]
        return [*end.words, *pidfile, *kernel(f"busybox {end.command} -f", end.cmdline)]

    everywhere = {"power-off"}
    xhyve_only = {"reboot by keyboard", "power-off without ACPI"}
    started = {
        (end.name, build): start_for_module(*words(end, build), build=build)
        for end in ENDS
        for build in BUILDS
        if build == "head" or end.name in everywhere or (build == "hyperkit" and end.name not in xhyve_only)
    }
    assert becomes(lambda: len(list(pidfiles.iterdir())) > 5, START_SECONDS)
    return {key: running.wait() for key, running in started.items()}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_exit_code(ended: dict[tuple[str, Build], int], end: End) -> None:
    found = {build: code for (name, build), code in ended.items() if name == end.name}
    assert found == {build: end.codes[build == "hyperkit"] for build in found}
    assert "head" in found


def test_end_removes_the_pidfile(ended: dict[tuple[str, Build], int], pidfiles: Path) -> None:
    assert list(pidfiles.iterdir()) == []


@pytest.fixture(scope="module")
def shell(start_for_module: Start, kernel: Callable[..., list[str]]) -> Running:
    """A guest with ACPI, of which nobody looks at the power button."""
    running = start_for_module("-A", *STDIO, *kernel())
    running.console.wait_for("# $")
    return running


def answers(running: Running) -> bool:
    return running.console.run("echo $((6 * 7))") == "42"


def test_power_button_may_be_ignored(shell: Running) -> None:
    for _ in range(3):
        shell.signal(signal.SIGTERM)
        assert answers(shell)
    assert shell.lives()


def test_signals_are_as_xhyve_has_them(
    shell: Running, start: Start, kernel: Callable[..., list[str]], disk: Path
) -> None:
    """SIGCONT is ignored once there is a disk; of the others none, but SIGPIPE by hyperkit."""
    with_disk = [start("-s", f"4,virtio-blk,{disk}", *kernel(), build=build) for build in ("head", "hyperkit")]
    assert all(becomes(running.has_qemu, START_SECONDS) for running in with_disk)
    assert ignored(shell) == set()
    assert [ignored(running) for running in with_disk] == [{signal.SIGCONT}, {signal.SIGCONT, signal.SIGPIPE}]


def ignored(running: Running) -> set[signal.Signals]:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_guest_stops_with_its_process(shell: Running) -> None:
    qemu = shell.qemu()
    assert qemu is not None
    shell.signal(signal.SIGSTOP)
    assert becomes(lambda: state_of(qemu) == "T", SOON_SECONDS)
    before = shell.console.text
    shell.console.type("echo typed\n")
    assert not becomes(lambda: shell.console.text != before, 0.3)
    shell.signal(signal.SIGCONT)
    assert becomes(lambda: shell.console.text.endswith("typed\n# "), SOON_SECONDS)
    assert answers(shell)


def test_process_looks_like_the_program(shell: Running, programs: dict[Build, Path]) -> None:
    """Not like its interpreter; and what helps it does not look like it."""
    assert Path(f"/proc/{shell.process.pid}/comm").read_text() == "xhyve\n"
    words = Path(f"/proc/{shell.process.pid}/cmdline").read_bytes().split(b"\0")
    assert words[:3] == [os.fsencode(programs["head"]), b"-A", b"-l"]
    children = psutil.Process(shell.process.pid).children()
    assert len(children) == 2
    for child in children:
        # What is sent to a whole group, or typed on a terminal, is not for them.
        assert os.getpgid(child.pid) != os.getpgid(shell.process.pid)
        assert child.name() != "xhyve"
        assert os.fspath(programs["head"]) not in child.cmdline()


def test_hyperkit_pauses(start: Start, kernel: Callable[..., list[str]]) -> None:
    master, slave = os.openpty()
    running = start(*STDIO, *kernel(), build="hyperkit", stdout=slave)
    os.close(slave)
    with closing(Console(master)) as said:
        assert answers(running)
        running.signal(signal.SIGUSR1)
        said.wait_for("received sigusr1, pausing\n", SOON_SECONDS)
        before = running.console.text
        running.console.type("echo typed\n")
        assert not becomes(lambda: running.console.text != before, 0.3)
        running.signal(signal.SIGUSR2)
        said.wait_for("received sigusr2, unpausing\n", SOON_SECONDS)
        assert becomes(lambda: running.console.text.endswith("typed\n# "), SOON_SECONDS)
    os.close(master)


def test_power_button_before_acpi_is_death(start: Start, kernel: Callable[..., list[str]], tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    running = start("-A", "-F", pidfile, *STDIO, *kernel())
    assert becomes(running.has_qemu, START_SECONDS)
    running.signal(signal.SIGTERM)
    assert running.wait() == -signal.SIGTERM
    assert pidfile.read_text() == str(running.process.pid)


def test_power_button_without_acpi_is_death(start: Start, kernel: Callable[..., list[str]]) -> None:
    running = start(*STDIO, *kernel())
    assert answers(running)
    running.signal(signal.SIGTERM)
    assert running.wait(SOON_SECONDS) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("build", "name"),
    [
        *(("head", name) for name in ("INT", "HUP", "QUIT", "USR1", "USR2", "PIPE", "KILL")),
        *(("hyperkit", name) for name in ("INT", "HUP", "KILL")),
    ],
)
def test_deaths(start: Start, kernel: Callable[..., list[str]], tmp_path: Path, build: Build, name: str) -> None:
    """By other signals, at once; the pidfile stays, the guest does not."""
    number = signal.Signals[f"SIG{name}"]
    pidfile = tmp_path / "pid"
    running = start("-A", "-F", pidfile, *STDIO, *NIC, *kernel(), build=build)
    assert becomes(running.has_qemu, START_SECONDS)
    qemu = running.qemu()
    assert qemu is not None
    running.signal(number)
    assert running.wait(SOON_SECONDS) == -number
    assert pidfile.read_text() == str(running.process.pid)
    assert becomes(lambda: state_of(qemu) is None, SOON_SECONDS)


def test_process_that_dies_of_something_else(start: Start, kernel: Callable[..., list[str]]) -> None:
    """A guest that xhyve cannot go on with makes it abort."""
    running = start(*kernel())
    assert becomes(running.has_qemu, START_SECONDS)
    qemu = running.qemu()
    assert qemu is not None
    os.kill(qemu, signal.SIGKILL)
    assert running.wait(SOON_SECONDS) == -signal.SIGABRT
