"""Processes that die while a test has injected faults: nothing is left, and the guest can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dpkt
import psutil
import pytest
from homes import KNOWN, share
from mounting import mounted
from waiting import becomes
from warm import fleet_of

from pytest_xhyve import BootFailed, Guest, Guests, HypervisorExited, LanFailed, XhyveError
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec

pytestmark = pytest.mark.run_under("warm")

SUITE = """
import pathlib
import time

import pytest

@pytest.mark.xhyve(image="tiny", power_cuts=True, disks=["1M"])
@pytest.mark.xhyve_guests(nodes=2)
def test_guests(xhyve_guests):
    first, second = xhyve_guests
    xhyve_guests.snapshot()
    first.disks[0].slow(iops=1000)
    first.disks[0].fail(sector=0)
    first.disks[1].unplug()
    first.set_clock(offset=60, drift=0.01)
    first.take_memory("20M")
    second.pause()
    xhyve_guests.partition(["node1"], ["node2"], one_way=True)
    xhyve_guests.link("node1", "node2", latency="1s", loss=0.5)
    first.link_down()
    first.throttle(cpu=0.1)
    with xhyve_guests.capture("lan.pcapng"), xhyve_guests.chaos(seed=1, every=0.5):
        pathlib.Path("in-test").touch()
        time.sleep(600)
"""


@pytest.mark.thorough
@pytest.mark.xhyve(image="tiny", power_cuts=True, disks=["1M", "1M"])
def test_hypervisor_dies(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo kept > /root/file")
    snapshot = guest.snapshot()
    guest.disks[0].fail(sector=0)
    guest.disks[1].unplug()
    guest.disks[2].slow(iops=100)
    guest.take_memory("20M")
    guest.set_clock(offset=60)
    guest.throttle(cpu=0.2)
    pid = guest._instance.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(HypervisorExited) as raised:
        guest.run("true")
    (note,) = raised.value.__notes__
    faults = "disk 1: unplugged", "speed of disk 2: limited to 100 requests/s", "memory: 20 MiB taken away"
    for fault in ("errors of disk 0: read, write requests fail at sector 0 (EIO)", *faults, "clock: +60.0 s"):
        assert f"{fault}; " in note
    assert note.endswith("CPU: runs for 20% of the time")
    for call in (
        guest.snapshot,
        guest.disks[1].plug,
        guest.disks[2].unplug,
        guest.disks[0].heal,
        lambda: guest.take_memory(None),
    ):
        with pytest.raises(XhyveError, match=r"is not running|exited|ended"):
            call()
    guest.restore(snapshot)
    assert guest.run("cat /root/file; dd if=/dev/vda of=/dev/null count=1 iflag=direct").stdout == "kept\n"
    assert not [thread for thread in threading.enumerate() if thread.name == "xhyve-throttle"]


@pytest.fixture
def fleet(_xhyve_fleet: Fleet) -> Fleet:
    return _xhyve_fleet


def kill_the_switch(guests: Guests, capture: Path) -> None:
    """Kill the switch while it captures, and while a series of faults goes on; return when three of them failed."""
    first, second = guests
    chaos = guests.chaos(seed=1, faults=["partition", "slow link", "pause"], every=0.2)
    with guests.capture(capture):
        second.run("ping -c 5 -i 0.1 -W 1 a", check=False, timeout=60)
        with chaos:
            os.kill(first._instance.lans.switches[0].pid, signal.SIGKILL)
            assert becomes(lambda: len(chaos.skipped) >= 3, 20)


def test_switch_dies(fleet: Fleet, tmp_path: Path) -> None:
    """Each call that needs the switch names it, and nothing waits for it."""
    with start_cluster(fleet, ClusterSpec.parse(a="tiny", b="tiny"), "test") as guests:
        a, b = guests
        snapshots = guests.snapshot()
        guests.partition(["a"], ["b"], one_way=True)
        guests.link("b", "a", latency="10ms", loss=0.5)
        path = tmp_path / "lan.pcapng"
        with pytest.raises(LanFailed):
            kill_the_switch(guests, path)
        with path.open("rb") as file:
            assert list(dpkt.pcapng.Reader(file))
        for call in (
            lambda: guests.partition(["a"], ["b"]),
            lambda: guests.link("a", "b", latency="1s"),
            lambda: b.network(loss="5%"),
            guests.heal,
            guests.capture(tmp_path / "other.pcapng").__enter__,
            lambda: guests.restore(snapshots),
        ):
            with pytest.raises(LanFailed, match=r"the switch of LAN lan .* has died"):
                call()
        a.link_down()
        a.link_up()
        a.pause()
        a.resume()
    assert not [thread for thread in threading.enumerate() if thread.name == "xhyve-chaos"]


@pytest.mark.thorough
def test_record_has_no_room(tmp_path: Path) -> None:
    """The host's disk is full before the record has reached its limit."""
    with mounted(tmp_path / "small", "size=300M,mode=700") as folder:
        home = share(Home.of_user(), folder / "home", (*KNOWN, "images", "keys"))
        with fleet_of(home, [], start="cold") as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec(power_cuts=True)))
            with pytest.raises(BootFailed, match=r"no space (is )?left") as raised:
                guest.run("dd if=/dev/zero of=/root/large bs=1M count=280; sync", timeout=120)
            assert "Traceback" not in str(raised.value)
            guest.remove()


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["pytest", "guardian"])
def test_nothing_is_left(victim: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    home = share(Home.of_user(), tmp_path / "home", (*KNOWN, "images", "keys", "templates"))
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, env=os.environ | {HOME_VARIABLE: str(home.path)}
    )

    def processes() -> list[psutil.Process]:
        """All that name the run's folder; the dead do not count."""
        alive = (process for process in psutil.process_iter(["cmdline", "status"]) if process.pid != os.getpid())
        return [
            process
            for process in alive
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and str(home.path) in " ".join(process.info["cmdline"] or [])
        ]

    try:
        assert becomes(lambda: (tmp_path / "in-test").exists() or run.poll() is not None, 120)
        assert run.poll() is None, "the suite did not get so far"
        (guardian,) = (process for process in processes() if "guardian_process" in " ".join(process.cmdline()))
        os.kill(run.pid if victim == "pytest" else guardian.pid, signal.SIGKILL)
        assert becomes(lambda: not processes(), 5)
    finally:
        run.kill()
        run.wait()
    if victim == "guardian":
        # Its folders are removed by the next run, or by this.
        subprocess.run(
            [sys.executable, "-m", "pytest_xhyve.cli", "reap"],
            check=True,
            env=os.environ | {HOME_VARIABLE: str(home.path)},
            stdout=subprocess.DEVNULL,
        )
    assert not list((home.path / "runs").iterdir())
