"""`pytest-xhyve run` and `shell`: what ssh does to the terminal, streams and exit codes, and nothing left of the guest.

Each test pays for its guest, so that some look at several things.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import pytest
from chosen import Chosen
from waiting import becomes

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.vanishing import find_existing

# A tenth of it does, where the tests beside boot no guests.
GONE_SECONDS = 5.0
# Long, for a machine that has much else to do, and where no template is there yet.
UP_SECONDS = 120.0


class Cli:
    """The command line in a folder of the plugin's, and what it leaves there."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def argv(self, *words: str) -> list[str]:
        # This run may itself ignore Ctrl-C, as one in the background of a script does.
        return ["env", "--default-signal=INT", sys.executable, "-m", "pytest_xhyve.cli", *words]

    def environment(self, **variables: str) -> dict[str, str]:
        return os.environ | {HOME_VARIABLE: str(self.home.path), **variables}

    def call(self, *words: str, data: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        environment = self.environment(**variables)
        return subprocess.run(self.argv(*words), check=False, input=data, capture_output=True, env=environment)

    def left(self) -> list[str]:
        """What is there of guests: folders, and processes that name them."""
        runs = self.home.path / "runs"
        left = [str(path) for path in runs.iterdir()] if runs.exists() else []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(self.home.path) in word for word in words):
                left.append(" ".join(words))
        return left


@pytest.fixture
def cli(home: Home) -> Cli:
    return Cli(home)


class Running:
    """A command line that runs, and what it has said so far."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.output = output
        self.text = ""

    def wait_for(self, text: str) -> None:
        """Wait until *text* was said after what was waited for before."""

        def is_said() -> bool:
            with contextlib.suppress(BlockingIOError, OSError):
                self.text += os.read(self.output, 4096).decode(errors="replace")
            return text in self.text

        assert becomes(is_said, UP_SECONDS), (self.text, self.process.poll())
        self.text = self.text.partition(text)[2]


Start = Callable[[Sequence[str]], Running]


@pytest.fixture
def start(cli: Cli) -> Iterator[Start]:
    """Start it, with pipes, in a session of its own."""
    with contextlib.ExitStack() as stack:

        def start(words: Sequence[str]) -> Running:
            process = stack.enter_context(
                subprocess.Popen(
                    cli.argv(*words),
                    env=cli.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            return Running(process, process.stdout.fileno())

        yield start


class Terminal:
    """A terminal of 31 lines, with the command line in its foreground."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str]) -> None:
        self.fd, theirs = pty.openpty()
        self.resize(31, 97)
        os.set_blocking(self.fd, False)
        self.process = subprocess.Popen(
            # setsid(1) makes it the session's controlling terminal.
            ["setsid", "--ctty", "--wait", *argv],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.running = Running(self.process, self.fd)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        os.close(self.fd)
        self.process.wait(UP_SECONDS)


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:

        def terminal(*words: str) -> Terminal:
            terminal = Terminal(cli.argv(*words), cli.environment(TERM="xterm"))
            # Closing it hangs up, which ends what still runs.
            stack.callback(terminal.close)
            return terminal

        yield terminal


def test_streams_and_exit_code_are_the_commands(cli: Cli) -> None:
    data = random.Random(1).randbytes(1 << 20)
    done = cli.call("run", "tiny", "cat;", "echo said >&2;", "exit", "3", data=data)
    assert done.returncode == 3
    assert done.stdout == data
    assert done.stderr.endswith(b"said\n")
    assert cli.left() == []


def test_options_environment_and_a_command_killed_by_a_signal(cli: Cli) -> None:
    words = ["run", "--memory", "400M", "tiny", "-tt", "tty; grep MemTotal /proc/meminfo; kill -9 $$"]
    # A standard stream that is closed, too.
    argv = ["sh", "-c", 'exec "$@" <&-', "sh", *cli.argv(*words)]
    environment = cli.environment(PYTEST_XHYVE_START="cold")
    done = subprocess.run(argv, check=False, capture_output=True, env=environment)
    assert done.returncode == 255
    there, memory = done.stdout.splitlines()
    assert there.startswith(b"/dev/pts/")
    # More than the image's, in KiB.
    assert int(memory.split()[1]) > 256 << 10
    # It would have taken a template of its own.
    assert b"template" not in done.stderr
    assert b"Error" not in done.stderr


def test_shell_reads_a_script(cli: Cli) -> None:
    done = cli.call("shell", "tiny", data=b"echo $0; cat /etc/hostname\nexit 7\n")
    assert (done.returncode, done.stdout[:1]) == (7, b"-")
    assert b"Pseudo-terminal" not in done.stderr


def test_kernel_panic_is_told(cli: Cli) -> None:
    begin = time.monotonic()
    done = cli.call("run", "tiny", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 255
    assert b"Error: the kernel of guest tiny-0 panicked: Kernel panic - not syncing: sysrq" in done.stderr
    assert time.monotonic() - begin < UP_SECONDS
    assert cli.left() == []


def test_shell_has_the_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    there = terminal("shell", "tiny")
    there.running.wait_for("# ")
    there.type("stty size\n")
    there.running.wait_for("31 97\r\n")
    there.resize(42, 123)
    there.type("stty size\n")
    there.running.wait_for("42 123\r\n")
    # Said by what is in the foreground by then, and not in this form by the terminal's echo.
    there.type("""sh -c 'echo "u"p; exec sleep 1000'\n""")
    there.running.wait_for("\r\nup\r\n")
    there.type("\x03")
    there.running.wait_for("# ")
    there.type("exit 4\n")
    assert there.process.wait(UP_SECONDS) == 4
    assert cli.left() == []


def test_ctrl_c_ends_it_where_the_command_has_no_terminal(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    there = terminal("run", "tiny", "echo up; sleep 1000")
    there.running.wait_for("up\r\n")
    there.type("\x03")
    assert there.process.wait(GONE_SECONDS) == 130
    assert cli.left() == []


def test_signal_takes_the_guest_along(cli: Cli, start: Start) -> None:
    running = start(["run", "tiny", "echo up; sleep 1000"])
    running.wait_for("up")
    running.process.terminate()
    assert running.process.wait(GONE_SECONDS) == 143
    assert cli.left() == []


def test_signal_while_it_boots(cli: Cli, start: Start) -> None:
    running = start(["run", "tiny", "--start=cold", "true"])
    runs = cli.home.path / "runs"
    assert becomes(lambda: bool(find_existing(runs, "*/*/guest.json")), UP_SECONDS)
    running.process.terminate()
    assert running.process.wait(GONE_SECONDS) == 143
    assert cli.left() == []


@pytest.mark.thorough
def test_killed_by_force_it_leaves_nothing(cli: Cli, start: Start) -> None:
    running = start(["run", "tiny", "echo up; sleep 1000"])
    running.wait_for("up")
    running.process.kill()
    assert becomes(lambda: not cli.left(), GONE_SECONDS), cli.left()


@pytest.mark.parametrize("hypervisor", ["xhyve"], indirect=True)
def test_on_an_address_of_its_own(cli: Cli, start: Start, hypervisor: Chosen) -> None:
    """As under xhyve, where nothing tells ssh that the guest is gone."""
    options = [option.replace("--xhyve-", "--") for option in hypervisor.options]
    running = start(["run", "tiny", *options, "echo up; sleep 1000"])
    running.wait_for("up")
    running.process.kill()
    assert becomes(lambda: not cli.left(), GONE_SECONDS), cli.left()
