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

from pytest_xhyve import Guest, HypervisorExited
from pytest_xhyve.host.home import HOME_VARIABLE, Home

pytestmark = pytest.mark.run_under("warm")

SUITE = """
import pathlib
import time

import pytest

@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_guest(xhyve_guest):
    xhyve_guest.snapshot()
    xhyve_guest.disks[0].slow(iops=1000)
    xhyve_guest.disks[0].fail(sector=0)
    xhyve_guest.throttle(cpu=0.1)
    pathlib.Path("in-test").touch()
    time.sleep(600)
"""


@pytest.mark.xhyve(image="tiny", power_cuts=True)
def test_hypervisor_dies(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    guest.run("echo kept > /root/file")
    snapshot = guest.snapshot()
    guest.disks[0].fail(sector=0)
    guest.throttle(cpu=0.2)
    pid = guest._instance.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(HypervisorExited) as raised:
        guest.run("true")
    (note,) = raised.value.__notes__
    assert "errors of disk 0: read, write requests fail at sector 0 (EIO); CPU: runs for 20% of the time" in note
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
