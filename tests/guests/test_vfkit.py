"""What only vfkit's driver has to do: its console, its REST interface, and what is wrong with some programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import dpkt
import pytest
from boot_disk import build_boot_disk
from chosen import Chosen
from homes import share
from listening import Recorder
from pinging import ping
from standin.mac import Mac
from waiting import becomes

from pytest_xhyve import HypervisorExited, HypervisorNotFound, Machine, NotSupported, XhyveError
from pytest_xhyve.fleet.cluster import start_cluster
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.processes import find_processes
from pytest_xhyve.host.runs import end_kept, live_guests
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.cluster import ClusterSpec
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

pytest_plugins = ["pytester"]

TINY = GuestSpec(image="tiny")

NewFleet = Callable[..., Fleet]


@pytest.fixture
def program(mac: Mac, tmp_path: Path) -> Iterator[Path]:
    """A vfkit, on a Mac on which all is well before and after the test."""
    mac.behave()
    yield mac.install_vfkit(tmp_path / "vfkit")
    mac.behave()


@pytest.fixture
def short_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder of the plugin's in which the paths of sockets are not too long for vfkit."""
    return share(Home.of_user(), tmp_path_factory.mktemp("h"))


@pytest.fixture
def new_fleet(program: Path, short_home: Home) -> Iterator[NewFleet]:
    with ExitStack() as stack:

        def make(**settings: object) -> Fleet:
            settings = {"hypervisor": "vfkit", "executable": str(program), **settings}
            return stack.enter_context(closing(Fleet(Settings(**settings), short_home)))  # type: ignore[arg-type]

        yield make


def test_life_of_a_guest(new_fleet: NewFleet) -> None:
    # vfkit restores nothing, so auto boots.
    fleet = new_fleet(start="auto")
    assert fleet.hypervisor.info.name == "vfkit"
    with fleet.start(ForegroundRequest(TINY)) as guest:
        assert "boot" in guest.phases
        assert guest.host.startswith("192.168.64.")
        assert guest.run("cat /sys/class/net/eth0/address").stdout.strip() == guest.mac
        assert guest.run("cat /sys/class/tty/console/active").stdout == "hvc0\n"
        assert "Power Button" in guest.console.text

        guest.console.wait_for("login: ", 60)
        guest.console.send("nobody\n")
        guest.console.wait_for("assword", 30)

        guest.pause()
        with pytest.raises(XhyveError):
            guest.run("true", timeout=1)
        guest.resume()
        assert guest.run("echo on", timeout=60).stdout == "on\n"

        identity = (guest.host, guest.mac, guest.uuid)
        guest.run("echo kept >/root/kept && sync && echo lost >/run/lost")
        guest.reboot()
        assert guest.run("cat /root/kept; ls /run/lost", check=False).stdout == "kept\n"
        guest.kill()
        guest.start()
        assert guest.run("cat /root/kept").stdout == "kept\n"
        assert (guest.host, guest.mac, guest.uuid) == identity
        guest.shutdown()
        assert "Requesting system poweroff" in guest.console.text
        folder = str(guest.console.path.parent)
    assert not find_processes(folder)
    assert not Path(folder).exists()


def test_path_of_the_socket_is_too_long(new_fleet: NewFleet) -> None:
    fleet = new_fleet()
    with fleet.start(ForegroundRequest(replace(TINY, name="x" * 63))) as guest:
        with pytest.raises(NotSupported, match=r"macOS allows 103: [\s\S]*PYTEST_XHYVE_HOME"):
            guest.pause()
        assert guest.run("echo on").stdout == "on\n"


def test_cluster(new_fleet: NewFleet, tmp_path: Path) -> None:
    """The LAN is the same as under QEMU; its cables carry datagrams."""
    fleet = new_fleet()
    with start_cluster(fleet, ClusterSpec.parse(server=TINY.image, client=TINY.image), "test") as guests:
        server, client = guests
        assert server.run("cat /sys/class/net/eth?/address").stdout.split() == [server.mac, *server.machine.lan_macs]
        server.run(ping("client.lan"), timeout=60)
        # The answers take two frames each, and their parts arrive in their order.
        server.run("head -c 1000000 /dev/urandom >/root/data && (nc -ll -p 5000 -e cat /root/data >/dev/null 2>&1 &)")
        server.wait_for_port(5000)
        with guests.capture(tmp_path / "lan.pcapng") as path:
            digest = client.run("nc server 5000 </dev/null | sha256sum", timeout=60).stdout
        assert digest.split()[0] == server.run("sha256sum /root/data").stdout.split()[0]
        with path.open("rb") as file:
            assert sum(len(frame) for _, frame in dpkt.pcapng.Reader(file)) > 1000000
        guests.partition(["server"], ["client"])
        assert client.run("ping -c 1 -W 1 server", check=False, timeout=60).returncode == 1
        guests.heal()
        client.run(ping("server"), timeout=60)
        with pytest.raises(NotSupported, match=r"cannot pull a cable[\s\S]*partition\(\)[\s\S]*qemu"):
            client.link_down()
        client.link_up()
        with pytest.raises(NotSupported, match=r"(?i)qemu"):
            guests.snapshot()
    with pytest.raises(NotSupported, match=r"cannot reset guests[\s\S]*qemu"):
        start_cluster(fleet, ClusterSpec.parse(a=TINY.image, reset=True), "test")


@pytest.mark.thorough
def test_kept_cluster_keeps_its_lan(program: Path, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xhyve_guests(a="tiny", b="tiny")
        def test_failing(xhyve_guests):
            xhyve_guests.a.run("false")
        """
    )
    options = ["--xhyve-image=tiny", "--xhyve-hypervisor=vfkit", f"--xhyve-executable={program}"]
    result = pytester.runpytest(*options, "--xhyve-keep=on-failure", "--xhyve-strict")
    result.assert_outcomes(failed=1)
    kept = [guest for guest in live_guests(Home.of_user().folder("runs")) if guest.kept]
    try:
        _, second = sorted(kept, key=lambda guest: guest.name)
        subprocess.run([*second.ssh, ping("a")], timeout=60, check=True)
        run = second.folder.parent
    finally:
        for guest in kept:
            assert end_kept(guest)
    assert becomes(lambda: not run.exists())


@pytest.mark.thorough
def test_guest_boots_by_its_own_boot_loader(new_fleet: NewFleet, tmp_path: Path) -> None:
    image = build_image("tiny-partitioned", Home.of_user(), print)
    manifest = build_boot_disk(image, tmp_path, image.cmdline.replace("ttyS0", "hvc0"))
    spec = GuestSpec(image=str(manifest), firmware="uefi")
    with new_fleet().start(ForegroundRequest(spec)) as guest:
        assert guest.run("cat /proc/cmdline; ls -d /sys/firmware/efi").stdout.startswith("BOOT_IMAGE=/boot/vmlinuz-")
        guest.kill()
        # With the variables of its first start.
        guest.start()
        guest.run("test -d /sys/firmware/efi")


@pytest.mark.thorough
def test_power_button_and_address_by_arp(new_fleet: NewFleet, mac: Mac) -> None:
    """A guest that names itself by a DUID has no Ethernet address in its lease."""
    mac.behave(lease_style="duid")
    with new_fleet().start(ForegroundRequest(TINY)) as guest:
        assert guest.host.startswith("192.168.64.")
        # Until then it has no daemon that listens to the button.
        guest.wait_for("pidof acpid")
        guest.run("sed -i /dropbear/d /etc/inittab && kill -HUP 1; killall -9 dropbear", check=False)
        guest.shutdown()
        assert "Requesting system poweroff" in guest.console.text


def test_what_it_cannot_do_names_qemu(new_fleet: NewFleet) -> None:
    fleet = new_fleet()

    def start(change: Callable[[Machine], Machine] = lambda machine: machine, **spec: object) -> None:
        fleet.start(ForegroundRequest(replace(TINY, **spec), hook=change))  # type: ignore[arg-type]

    with pytest.raises(NotSupported, match=r"cannot restore guests[\s\S]*qemu"):
        start(start="warm")
    with pytest.raises(NotSupported, match=r"cannot record what a guest writes[\s\S]*qemu"):
        start(power_cuts=True)
    with pytest.raises(NotSupported, match=r"no graphics card .* QEMU"):
        start(lambda machine: replace(machine, graphics=True))
    with pytest.raises(NotSupported, match="without an initial RAM disk; use QEMU"):
        start(lambda machine: replace(machine, initrd=None))
    with pytest.raises(NotSupported, match=r"cannot limit what a guest reaches[\s\S]*qemu"):
        start(network="none")


def test_program_that_ends_at_once(new_fleet: NewFleet, program: Path) -> None:
    fleet = new_fleet()
    assert fleet.hypervisor.info.version
    error = 'Error Domain=VZErrorDomain Code=2 Description="Invalid virtual machine configuration."'
    program.write_text(f"#!/bin/sh\necho usage\necho '{error}' >&2\nexit 1\n")
    with pytest.raises(HypervisorExited, match=r"exit code 1: Error Domain=VZErrorDomain[\s\S]*more CPUs or memory"):
        fleet.start(ForegroundRequest(TINY))


def test_auto_takes_vfkit_first_if_it_works(
    mac: Mac, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac.behave()
    folder = tmp_path / "bin"
    program = mac.install_vfkit(folder / "vfkit")
    mac.install(folder / "xhyve", "head")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    said: list[str] = []
    with closing(Fleet(Settings(), home, Recorder(said))) as fleet:
        assert fleet.hypervisor.info.name == "vfkit"
    assert said == []
    program.write_text("#!/bin/sh\necho vfkit version: v0.6.1\n")
    with closing(Fleet(Settings(), home, Recorder(said))) as fleet:
        assert fleet.hypervisor.info.name == "xhyve"
    assert "vfkit is installed but does not work here" in said[0]
    assert "v0.6.1, which is too old" in said[0]
    # Named, it is an error; another name does not matter.
    other = program.rename(folder / "other")
    for name in ("auto", "vfkit"):
        settings = Chosen("vfkit", other).settings(Settings())
        with (
            closing(Fleet(settings._replace(hypervisor=name), home)) as fleet,
            pytest.raises(HypervisorNotFound, match="too old"),
        ):
            assert fleet.hypervisor.info
