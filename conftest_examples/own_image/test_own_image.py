"""Tests on an image of one's own, which the conftest.py beside this file makes and chooses.

To copy: nothing in the tests says which image it is; they ask for a guest as all others do.
"""

from __future__ import annotations

from pytest_xhyve import Guest


def test_is_made_as_the_manifest_says(xhyve_session_guest: Guest) -> None:
    guest = xhyve_session_guest
    assert guest.image.name == "mine"
    assert guest.run("nproc").stdout == "2\n"
    assert "my.word=1" in guest.run("cat /proc/cmdline").stdout.split()


def test_image_is_not_written(xhyve_session_guest: Guest) -> None:
    guest = xhyve_session_guest
    before = guest.image.disk.stat()
    guest.run("dd if=/dev/urandom of=/var/random bs=1M count=8 conv=fsync")
    after = guest.image.disk.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
