"""A saved guest stays paused until gdb lets it go on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading

import pytest
from chosen import Chosen
from waiting import becomes

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import live_guests

pytest_plugins = ["pytester"]

FAILING = """
def test_fails(xhyve_guest):
    xhyve_guest.run("(n=0; while sleep 0.1; do n=$((n+1)); echo tick $n >/dev/console; done) >/dev/null 2>&1 &")
    xhyve_guest.console.wait_for("tick 3", timeout=30)
    assert False
"""


@pytest.mark.run_under("warm")
@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
@pytest.mark.thorough
def test_gdb_lets_the_guest_go_on(pytester: pytest.Pytester, hypervisor: Chosen) -> None:
    pytester.makepyfile(test_it=FAILING)
    options = (*hypervisor.options, "--xhyve-image=tiny", "--xhyve-save-failures=saved")
    pytester.runpytest_subprocess(*options).assert_outcomes(failed=1)
    (bundle,) = (pytester.path / "saved").glob("*.xhyve")
    resumed = subprocess.Popen(
        [sys.executable, "-m", "pytest_xhyve.cli", "resume", str(bundle), "--gdb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert resumed.stdout is not None
    said = bytearray()

    def read() -> None:
        assert resumed.stdout is not None
        while data := os.read(resumed.stdout.fileno(), 1 << 16):
            said.extend(data)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    try:
        assert becomes(lambda: b"attached to the console" in said, 60), said
        text = said.decode()
        assert "is paused until gdb lets it go on" in text
        (line,) = re.findall(r"^ +(gdb -ex .*)$", text, re.MULTILINE)
        ticks = re.findall(r"tick (\d+)", text)
        command = [*shlex.split(line.strip()), "-batch", "-ex", "info registers rip", "-ex", "detach"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd="/")
        assert re.search(r"rip +0x[0-9a-f]+", shown.stdout), shown.stdout + shown.stderr
        # It was paused all the time, and goes on with the next one.
        later = re.compile(rf"tick {int(ticks[-1]) + 3}\r".encode())
        assert becomes(lambda: later.search(said) is not None, 30), said
        numbers = [int(number) for number in re.findall(rb"tick (\d+)", said)]
        assert numbers == sorted(numbers)
    finally:
        assert resumed.stdin is not None
        with resumed.stdin:
            resumed.stdin.write(b"\x1d")
        resumed.wait(60)
        reading.join(10)
        resumed.stdout.close()
    assert resumed.returncode == 0
    assert live_guests(Home.of_user().folder("runs")) == []
