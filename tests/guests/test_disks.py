"""Empty disks, and a root file system that grows into a larger disk."""

from __future__ import annotations

import pytest
from warm import fleet_of, is_warm, template_of

from pytest_xhyve import Guest
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import ConfigurationError
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]
MIB = 1 << 20
# One choice, as each costs a template.
DISKS, SIZE = ["64M", "1G"], "3G"


def sectors(guest: Guest) -> list[int]:
    """The sizes of the guest's disks, in sectors of 512 bytes."""
    return [int(line) for line in guest.run("cat /sys/class/block/vd?/size").stdout.split()]


def root_mib(guest: Guest) -> int:
    """The size of the root file system."""
    return int(guest.run("df -m / | tail -n 1").stdout.split()[1])


@pytest.mark.thorough_under("xhyve")
@pytest.mark.xhyve(image="tiny", disks=DISKS, disk_size=SIZE)
def test_disks(xhyve_guest: Guest) -> None:
    assert sectors(xhyve_guest) == [size * MIB // 512 for size in (3072, 64, 1024)]
    assert root_mib(xhyve_guest) > 2800
    xhyve_guest.run("head -c 8388608 /dev/vdb | cmp -n 8388608 - /dev/zero && echo mine | dd of=/dev/vdb conv=fsync")
    # The files are sparse, and what was grown is on the disk.
    files = [disk.path for disk in xhyve_guest.machine.disks]
    assert sum(path.stat().st_blocks * 512 for path in files[1:]) < 4 * MIB
    xhyve_guest.kill()
    xhyve_guest.start()
    assert root_mib(xhyve_guest) > 2800
    assert xhyve_guest.run("head -n 1 /dev/vdb").stdout == "mine\n"
    folder = files[0].parent
    xhyve_guest.remove()
    assert not folder.exists()


@pytest.mark.thorough
@pytest.mark.run_under("warm", "xhyve")
@pytest.mark.xhyve(image="tiny-partitioned", disk_size="2G")
def test_root_in_a_partition_grows(xhyve_guest: Guest) -> None:
    assert root_mib(xhyve_guest) > 1800


def test_restored_guests_have_disks_of_their_own(said: list[str]) -> None:
    with fleet_of(Home.of_user(), said, start="warm") as fleet:
        spec = GuestSpec.parse(disks=DISKS, disk_size=SIZE)
        one, other = (fleet.start(ForegroundRequest(spec)) for _ in range(2))
        assert is_warm(one)
        one.run("echo mine > /dev/vdb; sync")
        assert other.run("head -c 4 /dev/vdb").stdout == "\0\0\0\0"
        assert template_of(one) == template_of(other)
        plain = fleet.start(ForegroundRequest(GuestSpec()))
        assert template_of(plain) != template_of(one)
        assert sectors(plain) == [1024 * MIB // 512]


def test_disk_that_is_too_small_is_refused_without_a_test_too(said: list[str]) -> None:
    with (
        fleet_of(Home.of_user(), said, start="cold") as fleet,
        pytest.raises(ConfigurationError, match="disk_size: 512 MiB is less than the 1 GiB of the image's disk"),
    ):
        fleet.start(ForegroundRequest(GuestSpec.parse(disk_size="512M")))


@pytest.mark.thorough
def test_a_reset_resets_all_disks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(image="tiny", disks=["64M", "1G"], disk_size="3G", reset=True)

        @pytest.fixture(scope="module", autouse=True)
        def prepared(xhyve_module_guest):
            xhyve_module_guest.run("echo kept > /dev/vdb; sync")
            xhyve_module_guest.disks[1].unplug()

        @pytest.mark.parametrize("number", [1, 2])
        def test_disks(xhyve_module_guest, number):
            assert xhyve_module_guest.run("cd /sys/block && echo vd*").stdout == "vda vdc\\n"
            xhyve_module_guest.disks[1].plug()
            xhyve_module_guest.wait_for("test -b /dev/vdb")
            shown = xhyve_module_guest.run("head -n 1 /dev/vdb; head -c 4 /dev/vdc; df -m / | tail -n 1").stdout
            assert shown.startswith("kept\\n" + 4 * chr(0))
            assert int(shown.split()[-5]) > 2800
            xhyve_module_guest.run("echo lost > /dev/vdb; echo lost > /dev/vdc; sync")
            if number == 1:
                xhyve_module_guest.kill()
        """
    )
    for start in ("warm", "cold"):
        pytester.runpytest_subprocess("--xhyve-hypervisor=qemu", f"--xhyve-start={start}").assert_outcomes(passed=2)
