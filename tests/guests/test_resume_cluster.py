"""The guests of a cluster, saved as one bundle when their test failed, and resumed together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chosen import Chosen
from homes import KNOWN, share

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.run_under("warm")

FAILING = """
import pytest

@pytest.mark.xhyve_guests(server="tiny", client="tiny", third="tiny")
def test_fails(xhyve_guests):
    server, client, third = xhyve_guests
    # Without -k, the server takes one connection only.
    server.run("(sleep 9999 | nc -l -p 7000 >/tmp/received) >/dev/null 2>&1 & sleep 0.2")
    client.run("(n=0; while sleep 0.1; do n=$((n+1)); echo $n; done) 2>/dev/null | nc server 7000 >/dev/null 2>&1 &")
    server.wait_for("test $(wc -l </tmp/received) -gt 3")
    xhyve_guests.partition(["third"], ["server"])
    xhyve_guests.link("client", "third", latency="300ms")
    client.throttle(cpu=0.9)
    server.run("true")
    client.run("exit 7")
"""


def resume(bundle: Path, home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest_xhyve.cli", "resume", str(bundle), *words],
        env={**os.environ, HOME_VARIABLE: str(home.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.thorough
def test_cluster_goes_on_with_its_lan(pytester: pytest.Pytester, hypervisor: Chosen, tmp_path: Path) -> None:
    """In another cache folder, twice: connections go on, names are known, and the faults of the LAN still hold."""
    pytester.makepyfile(test_it=FAILING)
    result = pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-save-failures=saved")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["server, client, third, for test_it.py::test_fails *"])
    (bundle,) = (pytester.path / "saved").glob("*.xhyve")
    bundle = bundle.rename(tmp_path / "moved.xhyve")
    home = share(Home.of_user(), tmp_path / "elsewhere", (*KNOWN, "images", "keys"))

    received = resume(bundle, home, "--guest=server", "--", "tail -n1 /tmp/received; sleep 2; tail -n1 /tmp/received")
    assert received.returncode == 0, received.stderr
    first, later = map(int, received.stdout.split())
    assert later > first > 3

    # The default is the guest whose command has failed.
    script = """
        hostname
        ping -c 1 -W 5 server >/dev/null && echo server answers
        ping -c 1 -W 5 third | grep -o "time=[0-9]*"
    """
    done = resume(bundle, home, "--", script)
    assert done.returncode == 0, done.stderr
    name, server, third = done.stdout.splitlines()
    assert (name, server) == ("client", "server answers")
    assert int(third.removeprefix("time=")) >= 600
    assert "its guests: server, client, third; you get client" in done.stderr
    assert "guest third: the fault link to server: cut holds again" in done.stderr
    assert "guest client: the fault link to third: latency 300 ms holds again" in done.stderr
    assert "guest client: the fault CPU: runs for 90% of the time does not hold any more" in done.stderr
    cut = resume(bundle, home, "--guest=third", "--", "grep -c server /etc/hosts; ping -c 1 -W 1 server >/dev/null")
    assert (cut.stdout.strip(), cut.returncode) == ("1", 1), cut.stderr
    assert live_guests(home.folder("runs")) == []


@pytest.mark.thorough
def test_pulled_cable_and_two_lans(pytester: pytest.Pytester, hypervisor: Chosen, tmp_path: Path) -> None:
    """A guest that was off boots from its disk, and has its LANs again."""
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.xhyve_guests(a="tiny", b="tiny", lans={"front": ["a", "b"], "back": ["a", "b"]})
        def test_fails(xhyve_guests):
            xhyve_guests.a.link_down()
            xhyve_guests.b.run("sync")
            xhyve_guests.b.kill()
            assert False
        """
    )
    pytester.runpytest_subprocess(*hypervisor.options, "--xhyve-save-failures=saved").assert_outcomes(failed=1)
    (bundle,) = (pytester.path / "saved").glob("*.xhyve")
    home = share(Home.of_user(), tmp_path / "elsewhere", (*KNOWN, "images", "keys"))
    carrier = "for card in /sys/class/net/eth[12]; do cat $card/carrier; done"
    down = resume(bundle, home, "--guest=a", "--", carrier)
    assert down.stdout == "0\n0\n", down.stderr
    up = resume(bundle, home, "--guest=b", "--", f"{carrier}; ip -4 -o address | grep -c 192.168")
    assert up.stdout == "1\n1\n2\n", up.stderr
    assert "guest b boots from its disk, as after a power cut: its memory was not saved, or it was off" in up.stderr
