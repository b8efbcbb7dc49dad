"""What can be seen of a disk before its preparation, without a guest: errors that come before any test."""

from __future__ import annotations

from pytest_xhyve.host.home import Home
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.preparation.disk_file import check_unused_and_whole, look
from pytest_xhyve.preparation.host_reader import look_on_host
from pytest_xhyve.preparation.login import StatedLogin, check_login
from pytest_xhyve.preparation.prepared import find_prepared
from pytest_xhyve.preparation.system import check_system, naming_disk


def check_can_be_prepared(manifest: Manifest, home: Home) -> None:
    """Check the disk of *manifest*, as far as this host can without a guest, unless it is prepared already.

    That it is unused and whole can be seen of each disk that is not compressed; which system is on it, and whether the
    plugin can log in, where this host can read it (`pytest_xhyve.preparation.host_reader`).

    Raises:
        ConfigurationError: the file is not a disk.
        ImageError: the disk cannot be prepared; the message states the reason and the fix.
    """
    disk = look(manifest.disk)
    if disk.compression or find_prepared(manifest, home) is not None:
        return
    check_unused_and_whole(disk)
    facts = look_on_host(disk)
    if facts is not None:
        with naming_disk(manifest.disk):
            check_system(facts, manifest.disk)
            check_login(facts, StatedLogin.of(manifest))
