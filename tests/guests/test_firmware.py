"""Guests that boot by the boot loader of their disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from boot_disk import build_boot_disk
from warm import check_identity, check_unplugging, fleet_of, is_warm

from pytest_xhyve import Guest
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.errors import ImageError, NotSupported
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import Firmware, StartMode

pytest_plugins = ["pytester"]

WORD = "booted_by_its_own_loader"


@pytest.fixture(scope="module")
def bootable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a disk that boots by BIOS and by UEFI, but for which nobody knows a kernel."""
    image = build_image("tiny-partitioned", Home.of_user(), print)
    return build_boot_disk(image, tmp_path_factory.mktemp("bootable"), f"{image.cmdline} {WORD}")


def see_firmware(guest: Guest, firmware: Firmware) -> None:
    """See that its own boot loader has booted *guest*, and which firmware that."""
    assert guest.run("cat /proc/cmdline").stdout.startswith("BOOT_IMAGE=/boot/vmlinuz-")
    guest.run(f"grep -q {WORD} /proc/cmdline")
    assert guest.run("test -d /sys/firmware/efi", check=False).returncode == (firmware == "bios")


@pytest.mark.thorough
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_guest_boots_and_is_restored(bootable: Path, said: list[str], tmp_path: Path, firmware: Firmware) -> None:
    before = digest_of(bootable.with_suffix(".img"))
    with fleet_of(Home.of_user(), said, str(bootable), start="warm") as fleet:
        one, other = (fleet.start(ForegroundRequest(GuestSpec(firmware=firmware, name=name))) for name in ("a", "b"))
        for guest in (one, other):
            assert is_warm(guest)
            check_identity(guest)
            see_firmware(guest, firmware)
        assert one.screenshot(tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
        # From here it boots by itself, with the variables of the saved guest.
        one.run("echo kept >/root/file; sync")
        one.kill()
        one.start()
        see_firmware(one, firmware)
        assert one.run("cat /root/file").stdout == "kept\n"
    assert digest_of(bootable.with_suffix(".img")) == before


@pytest.mark.thorough
@pytest.mark.parametrize("start", ["cold", "warm"])
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_disk_is_unplugged(bootable: Path, said: list[str], firmware: Firmware, start: StartMode) -> None:
    with fleet_of(Home.of_user(), said, str(bootable), start) as fleet:
        check_unplugging(fleet.start(ForegroundRequest(GuestSpec(firmware=firmware, disks=(1 << 20,)))))


@pytest.mark.thorough
def test_guest_that_booted_by_uefi_is_reset(bootable: Path, pytester: pytest.Pytester) -> None:
    """With the variables of the firmware, which are in a file of the guest."""
    pytester.makepyfile(
        f"""
        import pytest

        pytestmark = pytest.mark.xhyve(image={str(bootable)!r}, firmware="uefi", reset=True)

        @pytest.fixture(scope="module", autouse=True)
        def prepared(xhyve_module_guest):
            xhyve_module_guest.run("echo kept > /root/file; sync")

        @pytest.mark.parametrize("number", [1, 2, 3])
        def test_reset(xhyve_module_guest, number):
            assert xhyve_module_guest.run("cat /root/file; test -d /sys/firmware/efi").stdout == "kept\\n"
            xhyve_module_guest.run("echo lost > /root/file; sync")
            if number == 1:
                xhyve_module_guest.kill()
            elif number == 2:
                xhyve_module_guest.reboot()
                assert xhyve_module_guest.run("cat /root/file").stdout == "lost\\n"
        """
    )
    result = pytester.runpytest_subprocess("--xhyve-hypervisor=qemu", "--xhyve-start=warm")
    result.assert_outcomes(passed=3)


def test_guest_that_booted_has_its_own_name(bootable: Path, said: list[str]) -> None:
    with fleet_of(Home.of_user(), said, str(bootable), start="cold") as fleet:
        # As the manifest states.
        guest = fleet.start(ForegroundRequest(GuestSpec(name="other", disks=(64 << 20,))))
        see_firmware(guest, "bios")
        assert guest.run("hostname; cat /sys/class/block/vdb/size").stdout == "other\n131072\n"
        assert guest.first_command is not None


@pytest.mark.thorough
def test_disk_without_a_known_kernel_is_prepared(said: list[str], tmp_path: Path, home: Home) -> None:
    image = build_image("tiny-partitioned", Home.of_user(), print)
    manifest = build_boot_disk(image, tmp_path, f"{image.cmdline} {WORD}", boot="elsewhere")
    disk = manifest.with_suffix(".img")
    manifest.unlink()
    before = digest_of(disk)
    with fleet_of(home, said, str(disk), start="cold") as fleet:
        guest = fleet.start(ForegroundRequest(GuestSpec()))
        assert guest.image.firmware == "bios"
        assert guest.run("cat /proc/cmdline").stdout.startswith("BOOT_IMAGE=/elsewhere/vmlinuz-")
    assert digest_of(disk) == before


@pytest.mark.run_under("xhyve")
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_xhyve_has_no_firmware(settings: Settings, bootable: Path, firmware: Firmware) -> None:
    with (
        closing(Fleet(settings, Home.of_user())) as fleet,
        pytest.raises(NotSupported, match=f'use QEMU for firmware="{firmware}"'),
    ):
        fleet.start(ForegroundRequest(GuestSpec(image=str(bootable), firmware=firmware)))


def test_disk_without_a_boot_loader(said: list[str]) -> None:
    with fleet_of(Home.of_user(), said, start="cold") as fleet:
        for image, problem in (("tiny", "no partition table"), ("tiny-partitioned", "for a BIOS")):
            with pytest.raises(ImageError, match=problem):
                fleet.start(ForegroundRequest(GuestSpec(image=image, firmware="bios")))
