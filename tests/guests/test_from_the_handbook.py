"""The rows of "From the handbook" about a running machine, in the order of the page, on one guest under xhyve."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_xhyve import Guest

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
