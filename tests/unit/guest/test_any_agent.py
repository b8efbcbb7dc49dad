"""An agent that lies: a guest's root may answer in its place, with any bytes, at any time, or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples

from pytest_xhyve.guest.agent import Agent, AgentError, call, execute_over_ssh
from pytest_xhyve.model.machine import Machine, Nic
from pytest_xhyve.templates.identity import AgentState, IdentityError, install_agent, set_clock_and_seed, set_identity

MACHINE = Machine(
    name="g",
    uuid=UUID(int=0),
    cpus=1,
    cpu="x86-64-v2",
    memory=64 << 20,
    disks=(),
    nics=(Nic("52:54:00:00:00:01"),),
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


@examples(50)
@given(answers, st.booleans())
@example(chunks=[bytes(1 << 16)] * 20, hangs_up=False)
def test_any_answer(chunks: list[bytes], hangs_up: bool) -> None:
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(AgentError):
        agent = Agent(port, SECONDS)
        results = agent.execute(call(1), call(2))
        assert len(results) == 2
        assert all(-(1 << 63) <= result < 1 << 63 for result in results)
        agent.synchronize()


@examples(50)
@given(answers, st.booleans())
@example(chunks=[b"\xff" * 8 * 7 * 8], hangs_up=True)
@example(chunks=[b"\x01\x80" + b"\xff" * 6 + bytes(48)] * 20, hangs_up=True)
def test_any_answer_to_a_new_identity(chunks: list[bytes], hangs_up: bool) -> None:
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(IdentityError):
        set_identity(port, STATE, MACHINE, None, timeout=SECONDS)
    with answered(chunks, hangs_up=hangs_up) as port, contextlib.suppress(IdentityError):
        set_clock_and_seed(port, STATE, timeout=SECONDS)


@given(st.binary().map(os.fsdecode), answers)
@example("/x\n/y", [])
@example("/x\n52:54:00:00:00:01 eth0\n52:55:00:00:00:01 \udcff\n", [])
def test_any_output_of_the_installer(output: str, chunks: list[bytes]) -> None:
    with answered(chunks, hangs_up=True) as port, contextlib.suppress(IdentityError):
        install_agent(lambda _line, _data: output, port, "52:54:00:00:00:01", ["52:55:00:00:00:01"], SECONDS)


@given(st.binary().map(os.fsdecode))
def test_any_output_of_the_agent(output: str) -> None:
    with contextlib.suppress(AgentError):
        execute_over_ssh(lambda _line, _data: output, [call(1)])
