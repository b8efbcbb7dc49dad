"""When to connect to a guest whose network may not be up yet."""

from __future__ import annotations

import contextlib
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


@contextlib.contextmanager
def accepting(*, closes: bool) -> Iterator[Endpoint]:
    """As QEMU, which accepts each connection; it closes one if the guest answers by a reset."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.close() if closes else kept.append(connection)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield Endpoint("127.0.0.1", server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


def test_guest_whose_network_answers(clock: list[float]) -> None:
    with accepting(closes=True) as endpoint:
        probe = NetworkProbe(lambda: endpoint)
        assert probe.may_connect()
    # It is not asked again, until it is not what it was.
    assert probe.may_connect()
    probe.not_taken()
    assert not probe.may_connect()


def test_guest_whose_network_does_not_answer(clock: list[float]) -> None:
    with accepting(closes=False) as endpoint:
        assert not NetworkProbe(lambda: endpoint).may_connect()


def test_guest_whose_firewall_drops_what_it_does_not_know(clock: list[float]) -> None:
    """It is tried now and then, in a long boot less often."""
    with accepting(closes=True) as endpoint:
        pass
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


def test_restored_guest_is_tried_at_once(clock: list[float]) -> None:
    with accepting(closes=False) as endpoint:
        probe = NetworkProbe(lambda: endpoint, is_up=True)
        assert probe.may_connect()
        probe.not_taken()
        assert not probe.may_connect()


def test_each_guest_without_such_a_port_is_tried(clock: list[float]) -> None:
    probe = NetworkProbe(lambda: None)
    assert probe.may_connect()
