"""A disk from elsewhere is a guest as any other, and stays as it was.

`make test-images` runs the tests of guests on each disk, and these tests after them.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from warm import check_identity, fleet_of, is_warm, see_that_it_came_up_whole

from disks.build import DIGEST
from pytest_xhyve import Guest
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import Firmware, StartMode

# The name of the card on a disk of each kind of configuration and of boot loader.
CARDS = {"cloud": "eth0", "uefi": "eth0", "installed": "enp0s3"}
# Each starts a whole distribution, and some prepare it.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def disk(xhyve_image: str) -> Path:
    if not (Path(xhyve_image).parent / DIGEST).is_file():
        pytest.skip("it is about the disks that make test-images names")
    return Path(xhyve_image)


def test_prepared_disk_costs_no_time_and_little_space(disk: Path) -> None:
    """At most 50 ms in a run, and what the first boot wrote beside the disk."""
    home = Home.of_user()
    with fleet_of(home, [], str(disk)) as fleet:
        prepared = fleet.catalog.find(disk)
    # All units have started, cloud-init's, too.
    assert prepared.made["state"] == "running"
    said: list[str] = []
    seconds = []
    # Seconds of the CPU, of the quickest of a few: other work on the host delays any of them.
    for _ in range(5):
        with fleet_of(home, said, str(disk)) as fleet:
            before = time.process_time()
            assert fleet.catalog.find(disk) == prepared
            seconds.append(time.process_time() - before)
    assert said == []
    assert min(seconds) < 0.05
    copied = disk.suffix == ".vmdk"
    assert prepared.disk.stat().st_blocks * 512 < (200 << 20) + (disk.stat().st_size if copied else 0)


def test_what_a_guest_writes_stays_over_a_restart_and_goes_with_it(disk: Path, xhyve_guest: Guest) -> None:
    xhyve_guest.run("echo written >/root/written; sync")
    xhyve_guest.reboot()
    check_identity(xhyve_guest)
    assert xhyve_guest.run("cat /root/written").stdout == "written\n"
    xhyve_guest.shutdown()
    xhyve_guest.start()
    assert xhyve_guest.run("cat /root/written").stdout == "written\n"
    with fleet_of(Home.of_user(), [], str(disk)) as fleet:
        other = fleet.start(ForegroundRequest(GuestSpec()))
        assert is_warm(other)
        check_identity(other)
        assert other.run("test -e /root/written", check=False).returncode == 1


def test_root_grows_into_a_larger_disk(disk: Path) -> None:
    """ext4 and btrfs in the last partition, and XFS on a logical volume."""
    with fleet_of(Home.of_user(), [], str(disk), start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec.parse(disk_size="5G")))
        assert int(guest.run("df -m / | tail -n 1").stdout.split()[1]) > 4400
        guest.run("head -c 100000 /dev/urandom > /root/file; sync")


@pytest.mark.parametrize(("start", "count"), [("cold", 1), ("warm", 2)])
def test_card_has_its_name_if_the_disks_boot_loader_boots(disk: Path, start: StartMode, count: int) -> None:
    """The disk's own initial RAM disk names the cards first: there is one more, for a LAN."""
    if disk.stem not in CARDS:
        pytest.skip(f"the boot loader and the network of {disk.stem} are as those of the disk installed")
    firmware: Firmware = "uefi" if disk.stem == "uefi" else "bios"
    with fleet_of(Home.of_user(), [], str(disk), start) as fleet:
        for number in range(count):
            guest = fleet.start(ForegroundRequest(GuestSpec(firmware=firmware, name=f"loaded-{number}")))
            assert is_warm(guest) == (start == "warm")
            cmdline = guest.run("cat /proc/cmdline").stdout
            assert cmdline.startswith("BOOT_IMAGE=")
            assert "net.ifnames" not in cmdline
            check_identity(guest)
            assert guest.run(f"cat /sys/class/net/{CARDS[disk.stem]}/address").stdout == f"{guest.mac}\n"
            see_that_it_came_up_whole(guest)


def test_disk_stays_as_it_was(disk: Path) -> None:
    assert digest_of(disk) == (disk.parent / DIGEST).read_text()
