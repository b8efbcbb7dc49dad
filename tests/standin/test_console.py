"""Serial ports and what they are connected to, with guests that run a shell from their initial RAM disk."""

from __future__ import annotations

import os
import re
import signal
import socket
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from waiting import becomes

from standin.conftest import Start
from standin.running import BOOT_SECONDS, START_SECONDS, Console

STDIO = ["-l", "com1,stdio"]


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
