"""Off and on again: a guest of its own for each, as it does not survive otherwise."""

from __future__ import annotations

import time

import pytest

from pytest_xhyve import Guest, XhyveError

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def test_off_and_on_again(xhyve_guest: Guest) -> None:
    guest = xhyve_guest
    identity = (guest.uuid, guest.mac, guest.name)
    boots = [guest.run(BOOT_ID).stdout]
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
