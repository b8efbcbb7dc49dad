"""Faults of the LAN between two guests, each healed at the end of its test."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import dpkt
import psutil
import pytest
from pinging import ping
from waiting import becomes

from pytest_xhyve import CommandFailed, ConfigurationError, Guests, XhyveError
from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.host.cable import CableEnd

pytestmark = pytest.mark.run_under("warm")
LIMIT = 60


@pytest.fixture(autouse=True)
def healed(pair: Guests) -> Iterator[None]:
    pair.run_all(ping("server"), timeout=LIMIT)
    yield
    pair.heal()


def test_partition_and_heal(pair: Guests) -> None:
    pair.partition(["server"], [pair.client])
    with pytest.raises(CommandFailed, match="100% packet loss"):
        pair.client.run("ping -c 1 -W 1 server", timeout=LIMIT)
    # For the report of a test that fails.
    assert any("link to server: cut" in line for line in collect_evidence(pair.client).made)
    pair.heal()
    pair.client.run(ping("server"), timeout=LIMIT)


def test_one_way_partition(pair: Guests) -> None:
    pair.partition(["server"], ["client"], one_way=True)
    count = "cat /proc/net/dev | sed -n 's/.*eth1: *[0-9]* *\\([0-9]*\\).*/\\1/p'"
    before = int(pair.server.run(count).stdout)
    assert pair.client.run("ping -c 3 -W 1 -i 0.1 server", check=False, timeout=LIMIT).returncode == 1
    assert int(pair.server.run(count).stdout) >= before + 3


def test_latency_and_loss(pair: Guests) -> None:
    pair.link("server", "client", latency="100ms", one_way=True)
    times = re.findall(r"time=([0-9.]+)", pair.client.run("ping -c 5 -i 0.1 server", timeout=LIMIT).stdout)
    assert 100 <= min(map(float, times)) < 150
    pair.client.network(loss="100%")
    assert pair.client.run("ping -c 1 -W 1 server", check=False, timeout=LIMIT).returncode == 1
    pair.client.network()
    pair.client.run(ping("server"), timeout=LIMIT)


def test_cable_that_is_pulled(pair: Guests) -> None:
    card = "/sys/class/net/eth1/carrier"
    pair.client.link_down()
    pair.client.wait_for(f"grep -q 0 {card}")
    assert pair.server.run("ping -c 1 -W 1 client", check=False, timeout=LIMIT).returncode == 1
    pair.client.link_up()
    pair.client.wait_for(f"grep -q 1 {card}")
    pair.server.run(ping("client"), timeout=LIMIT)


def test_capture(pair: Guests, tmp_path: Path) -> None:
    with pair.capture(tmp_path / "new" / "lan.pcapng") as path:
        pair.client.run("ping -c 3 -i 0.1 server", timeout=LIMIT)
    with path.open("rb") as file:
        packets = [dpkt.ethernet.Ethernet(frame) for _, frame in dpkt.pcapng.Reader(file)]
    asked = [packet for packet in packets if isinstance(packet.data, dpkt.ip.IP) and packet.data.p == 1]
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (["server"], ["cleint"], "no guest 'cleint'; did you mean client"),
        (["server"], ["client", "server"], "guest server is on both sides"),
        ([], ["client"], "guests on both sides"),
        ("server", ["client"], r"'server' is not a list of guests; write \['server'\]"),
    ],
)
def test_invalid_partitions(pair: Guests, one: Sequence[str], other: Sequence[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        pair.partition(one, other)


def test_invalid_captures(pair: Guests, tmp_path: Path) -> None:
    unknown = pair.capture(tmp_path / "f", lan="x")
    with pytest.raises(ConfigurationError, match=r"no LAN 'x' \(known: lan\)"), unknown:
        pass
    with pytest.raises(IsADirectoryError), pair.capture(tmp_path):
        pass


def test_heal_with_nothing_broken(pair: Guests) -> None:
    pair.heal()
    pair.heal()
    pair.client.run(ping("server"), timeout=LIMIT)


def test_snapshot_of_one_moment(pair: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.run_all("echo before >/dev/shm/state")
    snapshots = pair.snapshot()
    pair.run_all("echo after >/dev/shm/state")
    pair.partition(["server"], ["client"])
    switch = pair._lans.find("lan")
    connect, before = switch.connect, [guest._instance.process.pid or 0 for guest in pair]
    alive: list[int] = []

    def watch(port: str, end: CableEnd) -> None:
        alive.extend(pid for pid in before if psutil.pid_exists(pid))
        connect(port, end)

    def end_late() -> None:
        time.sleep(1)
        switch_off()

    switch_off = pair.client._power.switch_off
    with monkeypatch.context() as patch:
        patch.setattr(switch, "connect", watch)
        patch.setattr(pair.client._power, "switch_off", end_late)
        pair.restore(snapshots)
    # A guest of the time after the snapshot would break the connections of one of the time before.
    assert alive == []
    swapped = {"server": snapshots["client"], "client": snapshots["server"]}
    with pytest.raises(XhyveError, match="the snapshot is one of guest client"):
        pair.restore(swapped)
    assert {each.stdout for each in pair.run_all("cat /dev/shm/state").values()} == {"before\n"}
    pair.client.run(ping("server"), timeout=LIMIT)
    with pytest.raises(XhyveError, match="no snapshot of guest client"):
        pair.restore({"server": snapshots["server"]})
    for snapshot in snapshots.values():
        snapshot.remove()


def test_chaos(pair: Guests) -> None:
    with pair.chaos(seed=3, faults=["partition", "slow link", "lossy link", "slow cpu"], every=0.2) as chaos:
        assert becomes(lambda: len(set(chaos.injected)) == 4, 20)
    assert chaos.skipped == ()
    pair.client.run(ping("server"), timeout=LIMIT)
    with pytest.raises(ConfigurationError, match="no fault 'partion'; did you mean partition"):
        pair.chaos(seed=1, faults=["partion"])
