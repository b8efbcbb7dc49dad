"""Off and on again: a guest of its own for each, as it does not survive otherwise.

That of an image with systemd is in test_identity.py.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from standin.iso import write_mini_iso

from pytest_xhyve import Guest, XhyveError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
PCI_CLASSES = "cat /sys/bus/pci/devices/*/class"
# AHCI.
DRIVE_CONTROLLER = "0x010601"


@pytest.mark.xhyve(image="tiny")
@pytest.mark.run_under("qemu", "xhyve")
def test_off_and_on_again(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    identity = (guest.uuid, guest.mac, guest.name)
    boots = [guest.run(BOOT_ID).stdout]
    # As no disc was asked for: see test_disc_in_a_drive.
    assert DRIVE_CONTROLLER not in guest.run(PCI_CLASSES).stdout.split()
    guest.run("echo kept > /root/kept")

    guest.reboot()
    boots.append(guest.run(BOOT_ID).stdout)
    assert guest.run("cat /root/kept").stdout == "kept\n"

    guest.shutdown()
    with pytest.raises(XhyveError, match="is off; start"):
        guest.run("true")
    assert "power" in guest.console.text.lower()
    guest.start()
    boots.append(guest.run(BOOT_ID).stdout)
    assert guest.run("cat /root/kept").stdout == "kept\n"

    guest.run("echo synced > /root/synced && sync && echo lost > /root/lost")
    start = time.monotonic()
    guest.kill()
    assert time.monotonic() - start < 0.5
    guest.start()
    boots.append(guest.run(BOOT_ID).stdout)
    assert guest.run("cat /root/synced").stdout == "synced\n"

    assert len(set(boots)) == 4
    assert identity == (guest.uuid, guest.mac, guest.name)
    assert guest.run("cat /proc/sys/kernel/hostname").stdout.strip() == guest.name
    guest.kill()
    guest.kill()


@pytest.mark.run_under("qemu", "xhyve")
def test_disc_in_a_drive(settings: Settings, tmp_path: Path) -> None:
    """Debian's cloud kernel has no driver for it; that the drive's controller is there can be seen all the same."""
    disc = write_mini_iso(tmp_path / "mini, with a comma.iso")
    with closing(Fleet(settings, Home.of_user())) as fleet:
        spec = GuestSpec(image="tiny")
        with fleet.start(ForegroundRequest(spec, hook=lambda machine: replace(machine, cdroms=(disc,)))) as guest:
            assert DRIVE_CONTROLLER in guest.run(PCI_CLASSES).stdout.split()
