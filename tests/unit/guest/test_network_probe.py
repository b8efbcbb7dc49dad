"""When to connect to a guest whose network may not be up yet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from pytest_xhyve.guest import network_probe
from pytest_xhyve.guest.network_probe import NetworkProbe
from pytest_xhyve.hypervisors.base import Endpoint


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the probe sees."""
    now = [1000.0]
    monkeypatch.setattr(network_probe, "monotonic", lambda: now[0])
    monkeypatch.setattr(network_probe, "LOOK_SECONDS", 0.02)
    return now


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """As the port of QEMU: each connection is accepted, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def endpoint_of(server: socket.socket) -> Endpoint:
    return Endpoint(*server.getsockname())


def test_guest_whose_network_answers(
    clock: list[float], server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU closes the connection that the guest has answered by a reset."""

    def close() -> None:
        connection, _ = server.accept()
        connection.close()

    closing = threading.Thread(target=close)
    closing.start()
    probe = NetworkProbe(lambda: endpoint_of(server))
    with monkeypatch.context() as patient:
        patient.setattr(network_probe, "LOOK_SECONDS", 10.0)
        assert probe.may_connect()
    closing.join(10)
    # It is not asked again, until it is not what it was.
    assert probe.may_connect()
    probe.not_taken()
    assert not probe.may_connect()


def test_guest_whose_network_does_not_answer(clock: list[float], server: socket.socket) -> None:
    assert not NetworkProbe(lambda: endpoint_of(server)).may_connect()


def test_guest_whose_firewall_drops_what_it_does_not_know(clock: list[float], server: socket.socket) -> None:
    """It is tried now and then, in a long boot less often."""
    endpoint = endpoint_of(server)
    # Nothing listens there any more: no answer, and no wait for it.
    server.close()
    probe = NetworkProbe(lambda: endpoint)
    tried = []
    for tenth in range(3000):
        clock[0] = 1000.0 + tenth / 10
        if probe.may_connect():
            probe.not_taken()
            tried.append(tenth / 10)
    assert tried[:3] == [2.0, 4.0, 6.0]
    assert max(after - before for before, after in pairwise(tried)) <= 0.05 * 300
    assert len(tried) < 70


def test_restored_guest_is_tried_at_once(clock: list[float], server: socket.socket) -> None:
    probe = NetworkProbe(lambda: endpoint_of(server), is_up=True)
    assert probe.may_connect()
    probe.not_taken()
    assert not probe.may_connect()


def test_each_guest_without_such_a_port_is_tried(clock: list[float]) -> None:
    probe = NetworkProbe(lambda: None)
    assert probe.may_connect()
