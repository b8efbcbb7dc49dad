"""An agent that lies: a guest's root may answer in its place, with any bytes, at any time, or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples

from pytest_xhyve.guest.agent import Agent, AgentError, call, execute_over_ssh
from pytest_xhyve.guest.system_calls import number_of
from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.machine import Machine, Nic
from pytest_xhyve.templates import identity
from pytest_xhyve.templates.identity import (
    CLOCK_SECONDS,
    AgentState,
    IdentityError,
    install_agent,
    set_clock_and_seed,
    set_identity,
)

MAC = "52:54:00:00:00:01"
MACHINE = Machine(
    name="g",
    uuid=UUID(int=0),
    cpus=1,
    cpu="x86-64-v2",
    memory=64 << 20,
    disks=(),
    nics=(Nic(MAC),),
    kernel=None,
    initrd=None,
    cmdline="",
)
STATE = AgentState(random=3, socket=4, interface="eth0", machine_id=5)
SECONDS = 0.02
answers = st.lists(st.binary(max_size=600), max_size=4)


@contextlib.contextmanager
def answered(chunks: list[bytes], *, hangs_up: bool) -> Iterator[socket.socket]:
    """A port on which a guest sends *chunks*, whatever it is asked, and then nothing, or hangs up."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with contextlib.suppress(OSError):
            for chunk in chunks:
                theirs.sendall(chunk)
            if hangs_up:
                theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()
        theirs.close()


@contextlib.contextmanager
def agent_that(answer: Callable[[socket.socket, bytes], None]) -> Iterator[socket.socket]:
    """A port on which *answer* is called for each message, as an agent would be that knows the protocol, and lies."""
    ours, theirs = socket.socketpair()

    def work() -> None:
        with contextlib.suppress(OSError):
            while length := theirs.recv(8, socket.MSG_WAITALL):
                answer(theirs, theirs.recv(int.from_bytes(length, "little"), socket.MSG_WAITALL))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        theirs.shutdown(socket.SHUT_RDWR)
        thread.join()
        theirs.close()


def answer_with(result: int) -> Callable[[socket.socket, bytes], None]:
    """Answer as the real agent does, but with *result* for each call; a mark to write is written."""

    def answer(port: socket.socket, message: bytes) -> None:
        calls = list(range(0, len(message) - 8, 56))
        end = next(at for at in calls if message[at : at + 8] == b"\xff" * 8)
        if end == 56 and message[:16] == (1).to_bytes(8, "little") * 2:
            port.sendall(message[64:80])
        port.sendall((result.to_bytes(8, "little", signed=True) + bytes(48)) * (end // 56))

    return answer


@pytest.mark.parametrize("result", [-(1 << 63), -(1 << 31), -4096, -4095, -1, 0, 1 << 62])
def test_any_result(result: int) -> None:
    output = f"/x\n{MAC} eth0"
    with agent_that(answer_with(result)) as port, contextlib.suppress(IdentityError):
        install_agent(lambda _line, _data: output, X86_64, port, MAC, (), 5)
    with agent_that(answer_with(result)) as port, contextlib.suppress(IdentityError):
        set_identity(Agent(port, X86_64, 5), STATE, MACHINE, None)


def test_clock_is_set_last_and_again_only_if_the_guest_was_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new time wakes programs of the guest, such as systemd, which then compete with the login."""
    sent: list[list[int]] = []

    def answer(port: socket.socket, message: bytes) -> None:
        sent.append([int.from_bytes(message[at : at + 8], "little") for at in range(0, len(message) - 8, 56)])
        answer_with(0)(port, message)

    # Before and after each try; the first one is too slow.
    times = iter([0, 2 * CLOCK_SECONDS, 1, 1 + CLOCK_SECONDS / 2])
    monkeypatch.setattr(identity, "monotonic", lambda: next(times))
    with agent_that(answer) as port:
        set_identity(Agent(port, X86_64, 5), STATE, MACHINE, None)
    host_name, clock = (number_of(name, X86_64) for name in ("sethostname", "clock_settime"))
    assert [(host_name in calls, clock in calls) for calls in sent] == [(True, False), (False, True), (False, True)]


@pytest.mark.parametrize(
    "output",
    [
        f"x\n{MAC} eth0",
        f"/{'x' * (1 << 16)}\n{MAC} eth0",
        f"/x y\n{MAC} eth0",
        f"/x\n{MAC} \udcff",
        f"/x\n{MAC} a/b",
        f"/x\n{MAC} {'x' * 16}",
        f"/x\n{MAC}",
    ],
)
def test_names_that_no_guest_has(output: str) -> None:
    with (
        agent_that(answer_with(3)) as port,
        pytest.raises(IdentityError, match=r"the guest names .* as (its agent|a network card)"),
    ):
        install_agent(lambda _line, _data: output, X86_64, port, MAC, (), 5)


def test_agent_that_sends_a_byte_now_and_then() -> None:
    def answer(port: socket.socket, _message: bytes) -> None:
        for _ in range(1000):
            port.sendall(b"x")
            time.sleep(0.01)

    for ask in (Agent.synchronize, lambda agent: agent.execute(*[call("write")] * 100)):
        begin = time.monotonic()
        with agent_that(answer) as port, pytest.raises(AgentError, match="did not answer"):
            ask(Agent(port, X86_64, 0.2))
        assert time.monotonic() - begin < 2


@examples(50)
@given(answers, st.booleans())
@example(chunks=[bytes(1 << 16)] * 20, hangs_up=False)
def test_any_answer(chunks: list[bytes], hangs_up: bool) -> None:
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(AgentError):
        agent = Agent(port, X86_64, SECONDS)
        results = agent.execute(call("write"), call("openat"))
        assert len(results) == 2
        assert all(-(1 << 63) <= result < 1 << 63 for result in results)
        agent.synchronize()


@examples(50)
@given(answers, st.booleans())
@example(chunks=[b"\xff" * 8 * 7 * 8], hangs_up=True)
@example(chunks=[b"\x01\x80" + b"\xff" * 6 + bytes(48)] * 20, hangs_up=True)
def test_any_answer_to_a_new_identity(chunks: list[bytes], hangs_up: bool) -> None:
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(IdentityError):
        set_identity(Agent(port, X86_64, SECONDS), STATE, MACHINE, None)
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(IdentityError):
        set_clock_and_seed(Agent(port, X86_64, SECONDS), STATE)


@given(st.binary().map(os.fsdecode), answers)
@example("/x\n/y", [])
@example("/x\n52:54:00:00:00:01 eth0\n52:55:00:00:00:01 \udcff\n", [])
def test_any_output_of_the_installer(output: str, chunks: list[bytes]) -> None:
    with answered(chunks, hangs_up=True) as port, contextlib.suppress(IdentityError):
        install_agent(lambda _line, _data: output, X86_64, port, MAC, ["52:55:00:00:00:01"], SECONDS)


@given(st.binary().map(os.fsdecode))
def test_any_output_of_the_agent(output: str) -> None:
    with contextlib.suppress(AgentError):
        execute_over_ssh(lambda _line, _data: output, X86_64, [call("write")])
