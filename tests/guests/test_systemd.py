"""What only a guest with systemd can do."""

from __future__ import annotations

import time

import pytest
from warm import see_that_it_came_up_whole

from pytest_xhyve import Guest, WaitTimeout, XhyveError

pytestmark = [pytest.mark.xhyve(image="debian12"), pytest.mark.run_under("warm")]

UNIT = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '{}'\n"


@pytest.fixture
def guest(xhyve_module_guest: Guest) -> Guest:
    return xhyve_module_guest


def make_unit(guest: Guest, name: str, command: str) -> None:
    guest.run(f"cat > /run/systemd/system/{name}.service", input=UNIT.format(command))
    guest.run("systemctl daemon-reload")


@pytest.mark.thorough
def test_comes_up_whole(guest: Guest) -> None:
    """Restored from a template; that one that booted does is in test_guest.py."""
    see_that_it_came_up_whole(guest)


@pytest.mark.thorough
def test_unit_becomes_active(guest: Guest) -> None:
    make_unit(guest, "slow", "sleep 1; date +%%s.%%N >/run/slow-was-ready")
    began = float(guest.run("date +%s.%N; systemctl start --no-block slow").stdout)
    assert guest.run("systemctl is-active slow", check=False).stdout == "activating\n"
    guest.wait_for_unit("slow", timeout=60)
    # By the guest's own clock: the call returned after the second that the unit takes, and not before.
    ready, returned = map(float, guest.run("cat /run/slow-was-ready; date +%s.%N").stdout.split())
    assert began + 1 <= ready <= returned
    assert guest.run("systemctl is-active slow").stdout == "active\n"


@pytest.mark.thorough
def test_failed_unit_is_not_waited_for(guest: Guest) -> None:
    make_unit(guest, "broken", "echo why it broke >&2; exit 3")
    guest.run("systemctl start --no-block broken")
    with pytest.raises(XhyveError, match=r"unit broken has failed[\s\S]*why it broke"):
        guest.wait_for_unit("broken", timeout=600)
    guest.run("systemctl reset-failed")


@pytest.mark.thorough
def test_inactive_unit_is_shown(guest: Guest) -> None:
    with pytest.raises(WaitTimeout, match=r"unit absent was not active within 0.5 s[\s\S]*absent.service"):
        guest.wait_for_unit("absent", timeout=0.5)


@pytest.mark.thorough
def test_has_what_an_integration_suite_expects(guest: Guest) -> None:
    guest.run("sudo -n true && python3 -c 'import json' && ip -br addr && systemctl --version && journalctl -n 1")
    guest.run("sudo -n id -u | grep -x 0", user="debian")
    guest.run("nft add table inet t && nft delete table inet t")
    guest.run("hostnamectl --static >/dev/null || hostnamectl", timeout=60)
    assert guest.run("getent hosts $(hostname)").returncode == 0
    assert guest.run("find /var/lib/dpkg -name status").stdout


@pytest.mark.thorough
def test_reboot_stops_units_and_waits_for_no_job_of_the_boot(guest: Guest) -> None:
    """As right after a boot: the login manager, which `reboot` asks, is not there yet."""
    make_unit(guest, "lasting", "true")
    guest.run("echo 'ExecStop=/bin/sh -c \"date >/var/tmp/stopped; sync\"' >>/run/systemd/system/lasting.service")
    guest.run("systemctl daemon-reload; systemctl start lasting")
    guest.run("mkdir -p /run/systemd/system/dbus.service.d")
    guest.run("cat >/run/systemd/system/dbus.service.d/slow.conf", input="[Service]\nExecStartPre=/bin/sleep 1000\n")
    guest.run("systemctl daemon-reload; systemctl --no-block restart dbus.service; sleep 1")
    began = time.monotonic()
    guest.reboot()
    assert time.monotonic() - began < 60
    assert guest.run("ls /var/tmp/stopped; rm /var/tmp/stopped").stdout == "/var/tmp/stopped\n"
