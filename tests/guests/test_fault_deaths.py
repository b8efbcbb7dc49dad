"""Processes that die while a test has injected faults: nothing is left, and the guest can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from homes import KNOWN, share
from waiting import becomes

from pytest_xhyve import Guest, HypervisorExited, XhyveError
from pytest_xhyve.host.home import HOME_VARIABLE, Home

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
