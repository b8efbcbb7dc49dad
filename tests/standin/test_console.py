"""Serial ports and what they are connected to, with guests that run a shell from their initial RAM disk."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from waiting import becomes

from standin.commandline import Build
from standin.conftest import Start
from standin.running import BOOT_SECONDS, START_SECONDS, Console

ANNOUNCED = re.compile(r"COM1 connected to (/dev/pts/\d+)\n")
STDIO = ["-l", "com1,stdio"]
# A shell on COM2, from which to write to COM1.
SHELL_ON_COM2 = ["-l", "com2,stdio"]
HELD = 1022


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: the master, and the slave as a standard input."""
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def attributes(fd: int) -> tuple[int, int]:
    """Whether what is typed is echoed, and whether Ctrl-C is a signal."""
    lflag = termios.tcgetattr(fd)[3]
    return lflag & termios.ECHO, lflag & termios.ISIG


def read_all(fd: int, seconds: float = 1.0) -> bytes:
    """What can be read until nothing comes for a while."""
    data = b""
    while select.select([fd], [], [], seconds)[0]:
        data += os.read(fd, 65536)
    return data


def open_slave(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def test_standard_input_is_the_console(start: Start, kernel: Callable[..., list[str]]) -> None:
    """In both directions; standard output has nothing of it, and standard error is not empty.

    What is typed before the guest has set up its UART is lost.
    """
    running = start(*STDIO, *kernel())
    running.console.type("echo early\n")
    running.console.wait_for("# $")
    assert running.console.run("echo $((6 * 7))") == "42"
    assert "early" not in running.console.text
    assert running.stdout == ""
    assert re.search(r"^rdmsr to register 0x\w+ on vcpu 0$", running.stderr, re.MULTILINE)


def test_end_of_input_is_not_the_end(start: Start, kernel: Callable[..., list[str]]) -> None:
    with Path(os.devnull).open("rb") as null:
        deaf = start(*STDIO, *kernel("busybox reboot -f"), stdin=null.fileno())
    running = start(*STDIO, *kernel())
    running.socket.shutdown(socket.SHUT_WR)
    running.console.wait_for("# $")
    assert deaf.wait() == 0
    assert deaf.stdout == ""
    assert running.lives()


def test_output_that_goes_nowhere(start: Start, kernel: Callable[..., list[str]]) -> None:
    """Nobody notices, be it a port without a backend, or a standard input that cannot be written to."""
    read_end, write_end = os.pipe()
    script = kernel("busybox reboot -f")
    started = [start("-l", "com1", *script), start(*STDIO, *script, stdin=read_end)]
    os.close(read_end)
    for running in started:
        assert running.wait() == 0
        assert running.stdout == running.console.text == ""
    os.close(write_end)


def test_terminal_is_raw_until_exit(start: Start, kernel: Callable[..., list[str]], terminal: tuple[int, int]) -> None:
    master, slave = terminal
    before = termios.tcgetattr(slave)
    assert all(attributes(slave))
    running = start(*STDIO, *kernel("read line; busybox poweroff -f"), "-A", stdin=slave)
    assert becomes(lambda: attributes(slave) == (0, 0), START_SECONDS)
    console = Console(master)
    with closing(console):
        time_out = time.monotonic() + BOOT_SECONDS
        while running.lives():  # it may not read yet
            assert time.monotonic() < time_out, console.text
            console.type("\x03\n")
            becomes(lambda: not running.lives(), 0.3)
        # Ctrl-C went to the guest.
        assert running.wait() == 1
        assert "Power down" in console.text
    assert termios.tcgetattr(slave) == before
    assert os.get_blocking(slave) is False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_terminal_stays_raw_after_a_death(
    start: Start, kernel: Callable[..., list[str]], terminal: tuple[int, int], number: signal.Signals
) -> None:
    _, slave = terminal
    running = start(*STDIO, *kernel(), stdin=slave)
    assert becomes(lambda: attributes(slave) == (0, 0), START_SECONDS)
    assert becomes(running.has_qemu, START_SECONDS)
    running.signal(number)
    assert running.wait() == -number
    assert attributes(slave) == (0, 0)
    assert os.get_blocking(slave) is False


def test_tty_by_its_path(start: Start, kernel: Callable[..., list[str]], terminal: tuple[int, int]) -> None:
    """What all builds have; standard input is left alone."""
    master, slave = terminal
    running = start("-l", f"com1,{os.ttyname(slave)}", *kernel(), build="v0.2.0")
    with closing(Console(master)) as console:
        console.wait_for("# $")
        assert console.run("echo $((6 * 7))") == "42"
        assert attributes(slave) == (0, 0)
        assert running.console.text == ""
        assert os.get_blocking(slave) is True  # it has opened its own


def test_nothing_is_kept_for_a_pty_that_nobody_has_open(
    start: Start, kernel: Callable[..., list[str]], terminal: tuple[int, int]
) -> None:
    """Nor more than about 1022 bytes for one that nobody reads."""
    master, slave = terminal
    running = start("-l", "com1,autopty", *SHELL_ON_COM2, *kernel(console="ttyS1"), stdout=slave)
    announced = Console(master)
    with closing(announced):
        announced.wait_for(ANNOUNCED.pattern)
        path = ANNOUNCED.findall(announced.text)[0]
    shell = running.console
    shell.wait_for("# $")
    shell.run("busybox mkdir -p /dev && busybox mount -t devtmpfs none /dev && busybox stty raw -F /dev/ttyS0")
    shell.run("echo before it was opened >/dev/ttyS0")
    pty = open_slave(path)
    try:
        assert read_all(pty, 0.2) == b""
        shell.run("echo now >/dev/ttyS0")
        assert read_all(pty, 0.2) == b"now\n"

        shell.run("busybox seq 1 3000 >/dev/ttyS0")
        kept = read_all(pty, 0.2)
        everything = "".join(f"{number}\n" for number in range(1, 3001)).encode()
        assert everything.startswith(kept)
        # What was on its way when the reading began comes, too.
        assert HELD - 256 <= len(kept) < len(everything) / 3
        shell.run("echo on >/dev/ttyS0")
        assert read_all(pty, 0.2) == b"on\n"

        shell.run("echo unread >/dev/ttyS0")
    finally:
        os.close(pty)
    shell.run("echo while it was closed >/dev/ttyS0")
    pty = open_slave(path)
    try:
        shell.run("echo again >/dev/ttyS0")
        assert read_all(pty, 0.2) == b"again\n"
    finally:
        os.close(pty)


def test_pty_that_is_read_gets_everything(
    start: Start, kernel: Callable[..., list[str]], terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    start("-l", "com1,autopty", *kernel(), stdout=slave)
    with closing(Console(master)) as announced:
        announced.wait_for(ANNOUNCED.pattern)
        path = ANNOUNCED.findall(announced.text)[0]
    pty = open_slave(path)
    with closing(Console(pty)) as console:
        console.wait_for("# $")
        # No more at once than a pty holds: on a busy host, even one who reads may be late.
        for start_at in range(1, 3001, 500):
            said = console.run(f"busybox seq {start_at} {start_at + 499}")
            assert said.split() == [str(number) for number in range(start_at, start_at + 500)]
    os.close(pty)


def test_announcement_is_held_back(start: Start, kernel: Callable[..., list[str]]) -> None:
    """If standard output is no terminal, until exit; a death by signal loses it."""
    ends = start("-l", "com1,autopty", *kernel("busybox reboot -f"))
    dies = start("-l", "com1,autopty", *kernel())
    assert becomes(lambda: ends.qemu() is not None and dies.qemu() is not None, START_SECONDS)
    assert ends.stdout == ""
    dies.process.terminate()
    assert dies.wait() == -signal.SIGTERM
    assert dies.stdout == ""
    assert ends.wait() == 0
    assert ANNOUNCED.fullmatch(ends.stdout)


def test_hyperkit_keeps_its_pty_open(start: Start, kernel: Callable[..., list[str]], tmp_path: Path) -> None:
    """And writes the pty's name into a file, and the output into a ring besides."""
    file, ring = tmp_path / "tty", tmp_path / "ring"
    file.write_text("something longer than a name of a pty")
    backends = f"com1,autopty={file},log={ring}"
    words = ["-l", backends, *SHELL_ON_COM2, *kernel(console="ttyS1")]
    running = start(*words, build="hyperkit")
    running.console.wait_for("# $")
    assert re.fullmatch(r"/dev/pts/\d+", file.read_text())
    assert not file.is_symlink()
    running.console.run(
        "busybox mkdir -p /dev && busybox mount -t devtmpfs none /dev && busybox stty raw -F /dev/ttyS0"
    )
    running.console.run("echo a word >/dev/ttyS0")
    pty = open_slave(file.read_text())
    try:
        assert read_all(pty, 0.2).endswith(b"a word\n")
    finally:
        os.close(pty)
    assert ring.stat().st_size == 65536
    assert b"a word\n" in ring.read_bytes()
    running.console.type("busybox reboot -f\n")
    assert running.wait() == 2
    assert running.stdout == f"linkname {file}\nCOM1 connected to {file.read_text()}\nReopening slave pty\n"


def test_hyperkits_other_backends(start: Start, kernel: Callable[..., list[str]]) -> None:
    script = kernel("busybox reboot -f")
    for running in [start("-l", f"com1,{name}", *script, build="hyperkit") for name in ("asl", "null,asl")]:
        assert running.wait() == 2
        assert running.console.text == ""


def test_closed_standard_output_kills(start: Start, kernel: Callable[..., list[str]]) -> None:
    """By SIGPIPE, when what was held back is written; not hyperkit."""
    builds: tuple[Build, ...] = ("head", "hyperkit")
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = ["-l", "com1,autopty", *kernel("busybox reboot -f")]
    started = [start(*words, build=build, stdout=write_end) for build in builds]
    os.close(write_end)
    assert [running.wait() for running in started] == [-signal.SIGPIPE, 2]
