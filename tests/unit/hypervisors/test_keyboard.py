"""What is typed on a console arrives whole, or an error states why it does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from pytest_xhyve.hypervisors.keyboard import type_on_console
from pytest_xhyve.model.errors import HypervisorExited, XhyveError

MUCH = bytes(1 << 20)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_all_of_it_arrives(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    received = bytearray()

    def read() -> None:
        while len(received) < len(MUCH):
            received.extend(theirs.recv(65536))

    reader = threading.Thread(target=read)
    reader.start()
    type_on_console(ours.fileno(), MUCH, "web")
    reader.join(10)
    assert bytes(received) == MUCH


def test_nothing_reads_it(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(XhyveError, match="guest web does not take what is typed"):
        type_on_console(ends[0].fileno(), MUCH, "web", seconds=0.05)


def test_other_end_is_closed(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    with pytest.raises(HypervisorExited, match="serial port of guest web"):
        type_on_console(ours.fileno(), b"x", "web")
    ours.close()
    with pytest.raises(HypervisorExited, match="serial port of guest web"):
        type_on_console(ours.fileno(), b"x", "web")
