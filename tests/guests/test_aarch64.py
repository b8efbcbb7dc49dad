"""Guests of aarch64, whose processor QEMU emulates on a host of x86-64."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from boot_disk import build_boot_disk, fetch_modules
from pinging import ping
from warm import check_identity, check_unplugging, fleet_of, is_warm

from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.build import build_image
from pytest_xhyve.images.manifest import as_manifest
from pytest_xhyve.model.architecture import ARM64
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.spec import GuestSpec
from pytest_xhyve.model.values import StartMode

pytest_plugins = ["pytester"]
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


DRAWN = 4096


@pytest.fixture(scope="module")
def warm() -> Iterator[Fleet]:
    """A fleet whose guests are restored from a template."""
    with fleet_of(Home.of_user(), [], IMAGE) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def guest(warm: Fleet) -> Guest:
    """A restored guest."""
    return warm.start(ForegroundRequest(GuestSpec()))


class TestRestored:
    """The promises of restored guests: see test_identity.py, test_reset.py, test_clusters.py and test_disks.py."""

    def test_each_is_a_machine_of_its_own(self, warm: Fleet, guest: Guest) -> None:
        others = [warm.start(ForegroundRequest(GuestSpec())) for _ in range(2)]
        drawn = set()
        for each in [guest, *others]:
            assert is_warm(each)
            assert each.run("uname -m; hostname").stdout.split() == ["aarch64", each.name]
            assert each.run("cat /sys/class/net/e*/address").stdout.split() == [each.mac, *each.machine.lan_macs]
            begin = time.time()
            shown = dict(line.split(":") for line in each.run("adjtimex | grep -o 'time.tv_.*'").stdout.splitlines())
            assert begin - 0.1 < int(shown["time.tv_sec"]) + int(shown["time.tv_usec"]) / 1e6 < time.time() + 0.1
            drawn.add(each.run(f"head -c {DRAWN} /dev/urandom | base64").stdout)
        assert len(drawn) == 3
        assert len({each.name for each in [guest, *others]}) == 3
        for each in others:
            each.remove()

    @pytest.mark.thorough
    def test_clock_pause_and_snapshot(self, guest: Guest) -> None:
        guest.set_clock(offset=-86400)
        assert float(guest.run("date +%s").stdout) < time.time() - 86000
        guest.run("echo before >/root/state")
        snapshot = guest.snapshot()
        guest.run("echo after >/root/state")
        guest.restore(snapshot)
        assert guest.run("cat /root/state").stdout == "before\n"
        assert abs(float(guest.run("date +%s").stdout) - time.time()) < 5
        guest.pause()
        guest.resume(clock="now")
        guest.run("true")

    @pytest.mark.thorough
    def test_disks(self, warm: Fleet) -> None:
        """A template of its own: the root file system has grown, and there is an empty disk."""
        with warm.start(ForegroundRequest(GuestSpec.parse(disks=["64M"], disk_size="2G"))) as grown:
            assert is_warm(grown)
            assert grown.run("cat /sys/class/block/vd?/size").stdout.split() == [str(2 << 21), str(64 << 11)]
            assert int(grown.run("df -m / | tail -n 1").stdout.split()[1]) > 1800

    def test_lan(self, warm: Fleet) -> None:
        cluster = ClusterSpec.parse(server=IMAGE, client=IMAGE)
        with start_cluster(warm, cluster, "test") as guests:
            for each, other in zip(guests, reversed([*guests]), strict=True):
                assert is_warm(each)
                each.run(ping(other.name), timeout=60)

    @pytest.mark.thorough
    def test_power_cut_and_restart(self, guest: Guest) -> None:
        guest.run("echo kept >/root/kept; sync")
        guest.kill()
        guest.start()
        assert guest.run("cat /root/kept").stdout == "kept\n"
        guest.reboot()
        guest.shutdown()
        assert not guest._power.is_on


@pytest.mark.thorough
@pytest.mark.parametrize("start", ["cold", "warm"])
def test_disk_is_unplugged(start: StartMode) -> None:
    with fleet_of(Home.of_user(), [], IMAGE, start) as fleet:
        check_unplugging(fleet.start(ForegroundRequest(GuestSpec(disks=(1 << 20,)))))


@pytest.mark.thorough
def test_kernel_in_a_zboot_file(tmp_path: Path) -> None:
    """As Fedora and others install it: booted, and restored from a template."""
    image = build_image(IMAGE, Home.of_user(), print)
    assert image.kernel is not None
    packed = gzip.compress(image.kernel.read_bytes(), 1)
    # drivers/firmware/efi/libstub/zboot-header.S
    header = struct.pack("<HH4sIIQ32s", 0x5A4D, 0, b"zimg", 512, len(packed), 0, b"gzip")
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(header.ljust(512, b"\0") + packed)
    manifest = tmp_path / "zboot.yaml"
    manifest.write_text(yaml.safe_dump(as_manifest(replace(image, name="zboot", kernel=kernel))))
    for start in ("cold", "warm"):
        with fleet_of(Home.of_user(), [], str(manifest), start) as fleet:
            guest = fleet.start(ForegroundRequest(GuestSpec()))
            assert is_warm(guest) == (start == "warm")
            assert guest.run("uname -m").stdout == "aarch64\n"


@pytest.mark.thorough
@pytest.mark.skipif(
    not any(Path(file).exists() for file, _ in ARM64.firmware), reason="the package qemu-efi-aarch64 is not installed"
)
def test_guest_boots_by_uefi_and_is_restored(said: list[str], tmp_path: Path) -> None:
    image = build_image("tiny-partitioned-aarch64", Home.of_user(), print)
    manifest = build_boot_disk(image, tmp_path, f"{image.cmdline} by_its_own_loader", modules=fetch_modules(tmp_path))
    see = "grep -q by_its_own_loader /proc/cmdline && test -d /sys/firmware/efi && uname -m"
    with fleet_of(Home.of_user(), said, str(manifest)) as fleet:
        one, other = (fleet.start(ForegroundRequest(GuestSpec(name=name))) for name in ("a", "b"))
        for each in (one, other):
            assert is_warm(each)
            # The firmware makes a table of SMBIOS, which a machine without it does not have.
            check_identity(each)
            assert each.run(see).stdout == "aarch64\n"
        one.run("echo kept >/root/file; sync")
        one.kill()
        one.start()
        assert one.run(see).stdout == "aarch64\n"
        assert one.run("cat /root/file").stdout == "kept\n"


@pytest.mark.thorough
def test_reset(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.xhyve(reset=True)
        drawn = set()

        @pytest.fixture(scope="module")
        def prepared(xhyve_module_guest):
            xhyve_module_guest.run("echo prepared >/root/state; (sleep 1000; true) >/dev/null 2>&1 &")
            return xhyve_module_guest

        @pytest.mark.parametrize("number", range(3))
        def test_it(prepared, number):
            assert prepared.run("cat /root/state; ps | grep -c '[s]leep 1000'").stdout.split()[0] == "prepared"
            assert prepared.run("cat /proc/sys/kernel/random/uuid").stdout not in drawn
            drawn.add(prepared.run("cat /proc/sys/kernel/random/uuid").stdout)
            prepared.run("echo changed >/root/state; killall sleep")
        """
    )
    result = pytester.runpytest_subprocess(f"--xhyve-image={IMAGE}", "--xhyve-hypervisor=qemu", "-n", "0")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [f"xhyve: qemu *guests are aarch64), image {IMAGE}", "xhyve: a CPU of aarch64 is emulated*"]
    )
