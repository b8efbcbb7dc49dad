"""Every fault, of one guest and of two on a LAN: on both images, booted and restored.

Other tests show in detail what each does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest
from pinging import ping
from warm import fleet_of, is_warm

from pytest_xhyve import Guest
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import StartMode

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]

READ = "dd if=/dev/vdb of=/dev/null bs=4096 count=1 iflag=direct"
STARTS: tuple[StartMode, ...] = ("cold", "warm")


@pytest.fixture(scope="module", params=STARTS)
def start(request: pytest.FixtureRequest) -> StartMode:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fleet(xhyve_image: str, start: StartMode) -> Iterator[Fleet]:
    with fleet_of(Home.of_user(), [], xhyve_image, start) as fleet:
        yield fleet


def works(guest: Guest, command: str) -> bool:
    return guest.run(command, check=False, timeout=60).returncode == 0


def test_every_fault_of_a_guest(fleet: Fleet, start: StartMode) -> None:
    with fleet.start(ForegroundRequest(GuestSpec(disks=(1 << 20,), power_cuts=True))) as guest:
        assert is_warm(guest) == (start == "warm")
        break_and_mend(guest)


def break_and_mend(guest: Guest) -> None:
    guest.run("echo flushed > /root/file && sync")
    snapshot = guest.snapshot()
    guest.run("rm /root/file")

    disk = guest.disks[1]
    disk.fail()
    assert not works(guest, READ)
    disk.heal()
    assert works(guest, READ)
    disk.unplug()
    assert not works(guest, "test -b /dev/vdb")
    disk.plug()
    guest.wait_for("test -b /dev/vdb")
    disk.slow(bytes_per_second="512K")
    begin = time.monotonic()
    guest.run("dd if=/dev/vdb of=/dev/null bs=64K count=16 iflag=direct")
    assert time.monotonic() - begin > 1
    disk.heal()

    guest.set_clock(offset=-3600)
    guest.pause()
    guest.resume(clock="now")
    assert abs(int(guest.run("date +%s").stdout) - time.time()) < 2
    guest.take_memory("40M")
    guest.take_memory(None)
    with guest.chaos(seed=1, every=0.3) as chaos:
        for _ in range(10):
            guest.run("sync")
    assert chaos.skipped == ()

    guest.restore(snapshot)
    assert guest.run("cat /root/file").stdout == "flushed\n"
    guest.run("echo lost | dd of=/root/written bs=512 conv=sync oflag=direct")
    guest.power_cut()
    guest.start()
    assert guest.run("cat /root/file").stdout == "flushed\n"
    assert not works(guest, "grep -q lost /root/written")
    guest.run("echo more > /root/file && sync")
    assert len(guest.crash_states(5, seed=1, check=lambda path, _: path.stat().st_size > 0, boot=False)) == 5


def test_every_fault_of_a_lan(fleet: Fleet, start: StartMode, tmp_path: Path) -> None:
    with start_cluster(fleet, ClusterSpec.parse(nodes=2), "test") as guests:
        first, second = guests
        assert is_warm(first) == is_warm(second) == (start == "warm")
        reaches = ping("node2")
        lost = "ping -c 1 -W 1 node2"
        first.run(reaches, timeout=60)
        guests.run_all("echo before > /root/file && sync")
        snapshots = guests.snapshot()
        guests.run_all("rm /root/file")

        for one_way in (False, True):
            guests.partition(["node1"], ["node2"], one_way=one_way)
            assert not works(first, lost)
            guests.heal()
            first.run(reaches, timeout=60)
        guests.link("node1", "node2", latency="200ms", one_way=True)
        (milliseconds,) = re.findall(r"time=([0-9.]+)", first.run(reaches, timeout=60).stdout)
        assert float(milliseconds) >= 200
        first.network(loss="100%")
        assert not works(first, lost)
        guests.heal()
        second.link_down()
        assert not works(first, lost)
        second.link_up()
        first.run(reaches, timeout=60)
        with guests.capture(tmp_path / "lan.pcapng") as path:
            first.run(reaches, timeout=60)
        with path.open("rb") as file:
            frames = [dpkt.ethernet.Ethernet(frame) for _, frame in dpkt.pcapng.Reader(file)]
        assert sum(isinstance(frame.data, dpkt.ip.IP) and frame.data.p == 1 for frame in frames) == 2
        with guests.chaos(seed=1, every=0.3) as chaos:
            for _ in range(10):
                guests.run_all("sync")
        assert chaos.injected
        assert chaos.skipped == ()

        guests.restore(snapshots)
        assert {each.stdout for each in guests.run_all("cat /root/file").values()} == {"before\n"}
        first.run(reaches, timeout=60)
