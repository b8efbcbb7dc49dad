"""The agent is an ordinary Linux program, and so it is run here, with a socket in the place of a serial port."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from assembler import assemble

from pytest_xhyve.guest.agent import Agent, AgentError, call, execute_over_ssh
from pytest_xhyve.guest.agent_program import build_program
from pytest_xhyve.guest.system_calls import AT_FDCWD
from pytest_xhyve.model.architecture import ARCHITECTURES, ARM64, X86_64, Architecture

HEADERS = 64 + 2 * 56
SECONDS = 10.0

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the agent is a program for Linux on x86-64"
)


@pytest.fixture(params=list(ARCHITECTURES.values()), ids=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """An architecture whose programs can run here: another one's under QEMU's emulation of programs."""
    found: Architecture = request.param
    if sys.platform != "linux" or not (found.is_native() or shutil.which(f"qemu-{found.name}-static")):
        pytest.skip(f"nothing here runs programs for Linux on {found.name}")
    return found


@pytest.fixture
def process(tmp_path: Path, architecture: Architecture) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The agent, and our end of what it takes for a serial port."""
    file = tmp_path / "agent"
    file.write_bytes(build_program(architecture))
    file.chmod(0o700)
    argv = [str(file)] if architecture.is_native() else [f"qemu-{architecture.name}-static", str(file)]
    ours, theirs = socket.socketpair()
    with ours, closing(theirs), subprocess.Popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno()) as running:
        theirs.close()
        yield running, ours
        running.kill()


@pytest.fixture
def agent(process: tuple[subprocess.Popen[bytes], socket.socket], architecture: Architecture) -> Agent:
    return Agent(process[1], architecture, SECONDS)


@pytest.mark.parametrize(
    ("built_for", "source", "prefix"), [(X86_64, "agent.S", ""), (ARM64, "agent_aarch64.S", "aarch64-linux-gnu-")]
)
def test_its_code_is_what_its_source_says(built_for: Architecture, source: str, prefix: str, tmp_path: Path) -> None:
    code = assemble(Path(__file__).with_name(source), tmp_path, "" if built_for.is_native() else prefix)
    assert build_program(built_for)[HEADERS:] == code


def test_it_is_as_small_as_its_description_says() -> None:
    from pytest_xhyve.guest import agent

    largest = max(len(build_program(each)) for each in ARCHITECTURES.values())
    assert f"a program of {largest} bytes at most" in (agent.__doc__ or "")


@needs_linux
def test_it_answers_with_what_the_call_returned(
    process: tuple[subprocess.Popen[bytes], socket.socket], agent: Agent
) -> None:
    assert agent.execute(call("getpid")) == [process[0].pid]


EARLY = b"UEFI Interactive Shell" * 100


class Late:
    """A channel on which some bytes of others come only after what came before them was read."""

    def __init__(self, channel: socket.socket, late: bytes) -> None:
        self._channel = channel
        self._late = late
        self._is_read = False

    def settimeout(self, seconds: float) -> None:
        self._channel.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        self._channel.sendall(data)

    def recv(self, size: int) -> bytes:
        if not self._is_read:
            self._is_read = True
            # The agent writes nothing before these bytes have left.
            return self._channel.recv(len(EARLY))
        late, self._late = self._late, b""
        return late or self._channel.recv(size)


@needs_linux
@pytest.mark.parametrize("late", [b"", b"\0", b"UEFI Interactive Shell" * 5])
def test_what_others_wrote_before_is_skipped(tmp_path: Path, late: bytes) -> None:
    file = tmp_path / "agent"
    file.write_bytes(build_program(X86_64))
    file.chmod(0o700)
    ours, theirs = socket.socketpair()
    with ours, closing(theirs):
        theirs.sendall(EARLY)
        agent = Agent(Late(ours, late), X86_64, SECONDS)  # type: ignore[arg-type]
        with subprocess.Popen([str(file)], stdin=theirs.fileno(), stdout=theirs.fileno()) as running:
            agent.synchronize()
            assert agent.execute(call("getpid")) == [running.pid]
            running.kill()


def test_guest_that_writes_without_end_is_an_error() -> None:
    class Endless:
        def settimeout(self, seconds: float) -> None:
            pass

        def sendall(self, data: bytes) -> None:
            pass

        def recv(self, size: int) -> bytes:
            return (b"noise" * 1000)[:size]

    with pytest.raises(AgentError, match="writes to its second serial port"):
        Agent(Endless(), X86_64, SECONDS).synchronize()  # type: ignore[arg-type]


@needs_linux
def test_calls_are_made_in_their_order(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    name = os.fsencode(path) + b"\0"
    (opened,) = agent.execute(call("openat", AT_FDCWD, name, os.O_WRONLY | os.O_CREAT, 0o600))
    assert agent.execute(
        call("write", opened, b"written by the agent", 20),
        call("pwrite64", opened, b"W", 1, 0),
        call("close", opened),
        call("write", opened, b"more", 4),
    ) == [20, 1, 0, -errno.EBADF]
    assert path.read_bytes() == b"Written by the agent"


@needs_linux
def test_a_call_that_fails_is_answered_with_its_error(agent: Agent, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "missing") + b"\0"
    assert agent.execute(call("unlinkat", AT_FDCWD, name, 0), call("write", -1, b"", 0)) == [
        -errno.ENOENT,
        -errno.EBADF,
    ]


@needs_linux
def test_one_message_has_many_calls_and_much_data(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    (opened,) = agent.execute(call("openat", AT_FDCWD, os.fsencode(path) + b"\0", os.O_WRONLY | os.O_CREAT, 0o600))
    pieces = [os.urandom(100 + number) for number in range(200)]
    results = agent.execute(*(call("write", opened, piece, len(piece)) for piece in pieces))
    assert results == [len(piece) for piece in pieces]
    assert path.read_bytes() == b"".join(pieces)


@needs_linux
def test_each_message_stands_for_itself(
    process: tuple[subprocess.Popen[bytes], socket.socket], agent: Agent, tmp_path: Path
) -> None:
    for number in range(1, 50):
        assert agent.execute(*[call("getpid")] * number) == [process[0].pid] * number


@needs_linux
def test_no_call_at_all_is_no_trouble(process: tuple[subprocess.Popen[bytes], socket.socket], agent: Agent) -> None:
    assert agent.execute() == []
    assert agent.execute(call("getpid")) == [process[0].pid]


class Dribble:
    """A channel over which bytes come one at a time, as over a slow line."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def settimeout(self, seconds: float) -> None:
        self._channel.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        for byte in data:
            self._channel.sendall(bytes([byte]))
            time.sleep(0.001)

    def recv(self, size: int) -> bytes:
        return self._channel.recv(min(size, 3))


@needs_linux
def test_messages_may_come_in_pieces(
    process: tuple[subprocess.Popen[bytes], socket.socket], architecture: Architecture
) -> None:
    agent = Agent(Dribble(process[1]), architecture, SECONDS)  # type: ignore[arg-type]
    assert agent.execute(call("getpid"), call("close", -1)) == [process[0].pid, -errno.EBADF]


@needs_linux
@pytest.mark.parametrize("sent", [b"", b"\x40\0\0", b"\x40\0\0\0\0\0\0\0", b"\x40\0\0\0\0\0\0\0half a record"])
def test_it_ends_well_when_the_port_is_closed(
    process: tuple[subprocess.Popen[bytes], socket.socket], sent: bytes
) -> None:
    running, channel = process
    channel.sendall(sent)
    channel.shutdown(socket.SHUT_WR)
    assert running.wait(SECONDS) == 0


@needs_linux
def test_a_structure_can_point_into_itself(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    (opened,) = agent.execute(call("openat", AT_FDCWD, os.fsencode(path) + b"\0", os.O_WRONLY | os.O_CREAT, 0o600))
    # struct iovec (writev(2)): an address and a length; the text follows.
    results = agent.execute(
        call("write", opened, b"before ", 7),
        call("writev", opened, lambda address: struct.pack("<QQ", address + 16, 5) + b"after", 1),
    )
    assert results == [7, 5]
    assert path.read_bytes() == b"before after"


def in_shell(line: str, data: bytes) -> str:
    done = subprocess.run(["sh", "-c", line], input=data, check=True, capture_output=True)
    return os.fsdecode(done.stdout)


@needs_linux
def test_calls_over_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_text("content")
    results = execute_over_ssh(
        in_shell, X86_64, [call("lseek", 3, 0, os.SEEK_END), call("lseek", 4, 0, 0)], [str(path)]
    )
    assert results == [7, -errno.EBADF]


def test_an_answer_that_is_too_short_is_an_error() -> None:
    with pytest.raises(AgentError, match="sent 4 bytes instead of 56"):
        execute_over_ssh(lambda *_: "/tmp", X86_64, [call("getpid")])


@needs_linux
def test_with_nothing_to_read_it_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "agent"
    file.write_bytes(build_program(X86_64))
    file.chmod(0o700)
    assert subprocess.run([str(file)], check=False, stdin=subprocess.DEVNULL).returncode == 0


def test_a_closed_port_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(AgentError):
            Agent(ours, X86_64, SECONDS).execute(call("getpid"))


def test_a_port_that_closes_within_an_answer_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:

        def answer_half() -> None:
            with theirs:
                theirs.recv(4096)
                theirs.sendall(b"half")

        answering = threading.Thread(target=answer_half)
        answering.start()
        with pytest.raises(AgentError, match="closed"):
            Agent(ours, X86_64, SECONDS).execute(call("getpid"))
        answering.join()


def test_silence_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(AgentError, match="did not answer"):
        Agent(ours, X86_64, 0.05).execute(call("getpid"))
