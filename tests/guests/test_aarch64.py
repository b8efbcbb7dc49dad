"""Guests of aarch64, whose processor QEMU emulates on a host of x86-64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from warm import fleet_of

from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec

IMAGE = "tiny-aarch64"


@pytest.fixture(scope="module")
def booted() -> Iterator[Guest]:
    """A guest that booted."""
    with fleet_of(Home.of_user(), [], IMAGE, "cold") as fleet:
        yield fleet.start(ForegroundRequest(GuestSpec()))


@pytest.mark.thorough
class TestBooted:
    def test_it_is_a_guest_of_aarch64(self, booted: Guest) -> None:
        assert booted.run("uname -m").stdout == "aarch64\n"
        assert booted.image.name == IMAGE

    def test_modules_and_their_dependencies_are_found(self, booted: Guest) -> None:
        """By what the build's depmod wrote."""
        booted.run("modprobe btrfs")
        assert {"btrfs", "xor"} <= {line.split()[0] for line in booted.run("lsmod").stdout.splitlines()}

    def test_no_program_lacks_a_library(self, booted: Guest) -> None:
        for program in ("lvm version", "blkid", "dropbearkey -h", "/usr/lib/openssh/sftp-server -h"):
            done = booted.run(program, check=False)
            assert "error while loading shared libraries" not in done.stderr, program

    def test_busybox_has_the_names_of_the_list(self, booted: Guest) -> None:
        """The list was made by BusyBox, and is of the version that the packages bring."""
        listed = set(booted.run("busybox --list-full").stdout.split())
        lines = booted.run("find /usr -type l -exec ls -l {} +").stdout.splitlines()
        ours = [line.split()[-3] for line in lines if line.endswith(" -> /usr/bin/busybox")]
        assert len(ours) > 200
        assert {link.removeprefix("/usr/") for link in ours} <= {applet.removeprefix("usr/") for applet in listed}

    def test_the_console_has_a_login(self, booted: Guest) -> None:
        assert booted.run("ps | grep -c '[g]etty -L ttyAMA0'").stdout == "1\n"
