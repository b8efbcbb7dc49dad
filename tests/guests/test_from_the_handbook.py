"""The rows of "From the handbook" that run a machine, under xhyve; tests/unit/test_handbook.py names all tests."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from chosen import Chosen
from command_line import run_separately
from kept import kept_guests

from pytest_xhyve import Guest

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.thorough, pytest.mark.xhyve(image="tiny"), pytest.mark.run_under("xhyve")]


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_machine_by_its_commands(xhyve_guest: Guest, tmp_path: Path) -> None:
    guest, before = xhyve_guest, digest(xhyve_guest.image.disk)
    address, uuid = guest.host, guest.uuid
    assert address.startswith("192.168.64.")
    assert "Linux version" in guest.console.text
    guest.console.send("echo typed\n")
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho copied\n")
    program.chmod(0o755)
    guest.put(program, "/usr/local/bin/")
    assert guest.run("/usr/local/bin/program && sync").stdout == "copied\n"
    # xhyve ends with its guest's restart; the disk and the address stay.
    guest.reboot()
    assert (guest.host, guest.uuid) == (address, uuid)
    assert guest.run("/usr/local/bin/program").stdout == "copied\n"
    guest.shutdown()
    guest.start()
    assert guest.host == address
    guest.kill()
    assert digest(guest.image.disk) == before


@pytest.mark.usefixtures("nothing_is_kept")
def test_commands(hypervisor: Chosen, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(xhyve_guest):
            assert xhyve_guest.run("nproc").stdout == "2\\n"
            assert int(xhyve_guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").stdout) > 900000
        """
    )
    options = ["--xhyve-image=tiny", "--xhyve-cpus=2", "--xhyve-memory=1G", "--xhyve-keep=always"]
    pytester.runpytest_subprocess(*hypervisor.options, *options, "-n", "0").assert_outcomes(passed=1)
    (kept,) = kept_guests()
    reaped = run_separately("reap")
    assert kept.name in reaped.stdout
    assert not kept_guests()
    named = [option.replace("--xhyve-", "--") for option in hypervisor.options]
    argv = [sys.executable, "-m", "pytest_xhyve.cli", "shell", "tiny", *named]
    assert subprocess.run(argv, check=False, input=b"exit 7\n", timeout=120).returncode == 7
