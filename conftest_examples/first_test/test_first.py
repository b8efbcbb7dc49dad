"""A first suite: one guest for the tests of a class, which only look, and one of its own for a test that breaks it.

To copy: `xhyve_class_guest` and `xhyve_guest` as arguments, and `run`, which fails the test when the command fails.
"""

from __future__ import annotations

from pytest_xhyve import Guest


class TestKernel:
    """These share a guest, as none of them leaves anything behind that would disturb another."""

    def test_is_linux(self, xhyve_class_guest: Guest) -> None:
        assert xhyve_class_guest.run("uname -s").stdout == "Linux\n"

    def test_loads_a_module(self, xhyve_class_guest: Guest) -> None:
        guest = xhyve_class_guest
        guest.run("modprobe dummy && ip link add dummy7 type dummy")
        assert "dummy7" in guest.run(["ip", "link", "show", "dummy7"]).stdout

    def test_mounts_a_file_system(self, xhyve_class_guest: Guest) -> None:
        guest = xhyve_class_guest
        guest.run("mkdir -p /mnt/here && mount -t tmpfs tmpfs /mnt/here")
        assert guest.run("stat -f -c %T /mnt/here").stdout == "tmpfs\n"


def test_power_cut_keeps_what_was_synced(xhyve_guest: Guest) -> None:
    """This guest is the test's own, so it may cut its power."""
    xhyve_guest.run("echo kept > /root/synced && sync")
    xhyve_guest.kill()
    xhyve_guest.start()
    assert xhyve_guest.run("cat /root/synced").stdout == "kept\n"
