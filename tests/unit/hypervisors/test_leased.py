"""The address of a guest in whose slot another system had one before: its lease is left, and it is not the guest's."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_xhyve.host import leases
from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.host.leases import Lease, parse_leases
from pytest_xhyve.hypervisors import leased
from pytest_xhyve.hypervisors.leased import LeasedMachine

MAC = "8e:1:99:9c:54:b1"
# The addresses of the earlier guest and of this one.
OLD, NEW = "127.0.0.2", "127.0.0.3"
DUID = "ff,f1:f5:dd:7f:0:2:0:0:ab:11:b5:40:7c:3:e2:a9:8c:b3"


def record(hardware: str, address: str) -> str:
    return f"{{\n\tip_address={address}\n\thw_address={hardware}\n\tlease=0xffffffff\n}}\n"


BEFORE, AFTER = record(f"1,{MAC}", OLD), record(DUID, NEW)


class Machine(LeasedMachine):
    def find_mac(self, records: Sequence[Lease]) -> str | None:  # noqa: ARG002
        return MAC


@pytest.fixture
def machine(guardian: Guardian, run_folder: Path) -> Iterator[Machine]:
    (run,) = run_folder.iterdir()
    with guardian.guard(run / "guest", [], {}) as process:
        yield Machine("guest", process, parse_leases(BEFORE.encode()))


@pytest.fixture
def arp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ARP table that ``arp -an`` prints, which is empty at first."""
    table, program = tmp_path / "table", tmp_path / "bin" / "arp"
    table.touch()
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat {table}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(leased, "_ARP_SECONDS", 0.0)
    return table


def have(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Let bootpd's file have this *content*."""
    monkeypatch.setattr(leases, "read_leases", lambda *_: parse_leases(content.encode()))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server at the address of this guest, on what counts as SSH's port; both guests have a lease."""
    with socket.create_server((NEW, 0)) as server:
        monkeypatch.setattr(leased, "SSH_PORT", server.getsockname()[1])
        have(monkeypatch, AFTER + BEFORE)
        yield server


def test_guest_that_answers_counts(machine: Machine, arp: Path, server: socket.socket) -> None:
    arp.write_text(f"? ({OLD}) at {MAC} on bridge100\n? ({NEW}) at {MAC} on bridge100 ifscope [bridge]\n")
    endpoint = machine.find_endpoint(server.getsockname()[1])
    assert endpoint is not None
    assert endpoint.host == NEW
    assert machine.explain_missing_address() is None


def test_guest_that_does_not_answer_has_a_lease(machine: Machine, arp: Path, server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    arp.write_text(f"? ({NEW}) at {MAC} on bridge100\n")
    assert machine.find_endpoint(port) is None
    assert machine.explain_missing_address() is None


def test_address_of_the_earlier_guest_is_no_reason_to_wait_longer(
    machine: Machine, arp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has exchanged nothing with the guest yet, so arp(8) does not know it."""
    assert arp.read_text() == ""
    have(monkeypatch, BEFORE)
    assert machine.explain_missing_address() is None
    have(monkeypatch, AFTER + BEFORE)
    assert "under a client identifier" in (machine.explain_missing_address() or "")
    # If the lease was renewed, it is the guest's.
    have(monkeypatch, AFTER + BEFORE.replace("0xffffffff", "0xfffffffe"))
    assert machine.explain_missing_address() is None
