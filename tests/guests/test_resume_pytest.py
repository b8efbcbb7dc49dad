"""A failed test runs again, with its saved guests in the place of new ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chosen import Chosen

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.run_under("warm")

# Each run finds what the one before has left.
FAILING = """
import pytest

COUNT = "echo run >> /root/runs; wc -l < /root/runs"

def test_single(xhyve_guest):
    assert int(xhyve_guest.run(COUNT).stdout) == 3
    assert "tiny" in xhyve_guest.name

@pytest.mark.xhyve_guests(server="tiny", client="tiny")
def test_cluster(xhyve_guests):
    server, client = xhyve_guests
    assert int(server.run(COUNT).stdout) == 2
    client.run("ping -c 1 -W 5 server")
    xhyve_guests.partition(["client"], ["server"])
    assert client.run("ping -c 1 -W 1 server", check=False).returncode == 1
    xhyve_guests.heal()
    client.run("ping -c 1 -W 5 server")
    with pytest.raises(Exception, match="cannot be kept"):
        client.keep("it")
    client.reboot()
    client.run("ping -c 1 -W 5 server")
"""


def again(bundle: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_xhyve.cli", "resume", "--pytest", str(bundle), *words],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.thorough
def test_test_gets_its_saved_guests(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(test_it=FAILING)
    # The project's settings must not let the next failure replace the bundle.
    pytester.makeini("[pytest]\nxhyve_save_failures = saved\n")
    pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-image=tiny").assert_outcomes(failed=2)
    cluster, single = sorted((pytester.path / "saved").glob("*.xhyve"))
    before = single.read_bytes()
    # The saved guest has one line, so this run is the second one each time.
    for _ in range(2):
        done = again(single, pytester.path)
        assert done.returncode == 1, done.stdout
        assert "assert 2 == 3" in done.stdout
        assert "--xhyve-image=tiny" in done.stdout
    assert single.read_bytes() == before
    done = again(cluster, pytester.path, "--", "-v")
    assert done.returncode == 0, done.stdout
    assert "test_it.py::test_cluster PASSED" in done.stdout
    assert live_guests(Home.of_user().folder("runs")) == []

    elsewhere = pytester.mkdir("elsewhere")
    done = again(single, elsewhere)
    assert done.returncode == 255
    assert "the test test_it.py::test_single is not here" in done.stdout
    assert "--pytest is for all guests" in again(single, elsewhere, "--console").stdout
