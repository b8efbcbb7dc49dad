"""What only xhyve's driver has to do: the three programs of that name, vmnet, leases, root's rights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from chosen import Chosen
from listening import Recorder
from standin.commandline import Build
from standin.mac import Mac

from pytest_xhyve import BootFailed, HypervisorExited, HypervisorNotFound, LeaseNotFound, Nic, NotSupported, XhyveError
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.fleet.slots import Holder, Slots
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.leases import read_leases
from pytest_xhyve.hypervisors.xhyve import driver
from pytest_xhyve.hypervisors.xhyve.identity import UuidCache, UuidRecord
from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.spec import GuestSpec

TINY = GuestSpec(image="tiny")

NewFleet = Callable[..., Fleet]


@pytest.fixture
def well(mac: Mac) -> Iterator[Mac]:
    """The Mac, on which all is well again after the test."""
    mac.behave()
    yield mac
    mac.behave()


@pytest.fixture
def new_fleet(well: Mac, home: Home, tmp_path: Path) -> Iterator[NewFleet]:
    """Makes a fleet on a program of some build."""
    with ExitStack() as stack:

        def make(build: Build = "head", **settings: object) -> Fleet:
            program = well.install(tmp_path / build, build)
            chosen = Chosen("hyperkit" if build == "hyperkit" else "xhyve", program)
            fleet = Fleet(chosen.settings(Settings(**settings)), home)  # type: ignore[arg-type]
            return stack.enter_context(closing(fleet))

        yield make


def first_uuids(home: Home, count: int) -> list[str]:
    """The UUIDs that the first slot would take one after the other."""
    slots = Slots(home.folder("slots"), 1, 0).take([0], Holder(0, ""))
    assert slots is not None
    (slot,) = slots
    os.close(slot.fd)
    return [str(uuid) for uuid, _ in zip(slot.uuids(), range(count), strict=False)]


@pytest.mark.thorough
@pytest.mark.parametrize("build", ["v0.2.0", "hyperkit"])
def test_every_build_runs_and_restarts_guests(new_fleet: NewFleet, build: Build) -> None:
    """The third, which is today's, runs all other tests."""
    fleet = new_fleet(build)
    assert fleet.hypervisor.info.name == ("hyperkit" if build == "hyperkit" else "xhyve")
    with fleet.start(ForegroundRequest(TINY)) as guest:
        assert guest.run("cat /sys/class/net/eth0/address").stdout.strip() == guest.mac
        identity = (guest.host, guest.mac, guest.uuid)
        guest.reboot()
        if build == "hyperkit":
            guest.pause()
            guest.resume()
        else:
            with pytest.raises(NotSupported, match="cannot pause a guest"):
                guest.pause()
        guest.shutdown()
        guest.start()
        assert (guest.host, guest.mac, guest.uuid) == identity


@pytest.mark.thorough
def test_address_is_asked_for_once_and_leases_are_no_more_than_slots(new_fleet: NewFleet, well: Mac) -> None:
    """Each guest's UUID is its slot's, so macOS's 253 addresses are never used up."""
    number = int(os.environ.get("GUESTS_IN_A_ROW", "2"))
    fleet = new_fleet()
    before = len(well.journal())
    hosts, leases = set(), set()
    for _ in range(number):
        with fleet.start(ForegroundRequest(TINY)) as guest:
            hosts.add(guest.host)
            leases.add(len(read_leases(well.leases)))
    # The question, and the guests.
    assert len(well.journal()) - before == number + 1
    (host,) = hosts
    assert host.startswith("192.168.64.")
    assert len(leases) == 1


def test_refused_uuid_is_replaced_once_and_for_all(new_fleet: NewFleet, well: Mac, home: Home) -> None:
    refused = first_uuids(home, 3)
    well.behave(refused_uuids=refused[:2])
    fleet = new_fleet()
    with fleet.start(ForegroundRequest(TINY)) as guest:
        assert guest.uuid == refused[2]
        mac = guest.mac
    asked = len(well.journal())
    with fleet.start(ForegroundRequest(TINY)) as guest:
        assert (guest.uuid, guest.mac) == (refused[2], mac)
    assert len(well.journal()) == asked + 1


@pytest.mark.thorough
def test_vmnet_that_refuses_all_is_not_the_uuids_fault(new_fleet: NewFleet, well: Mac, home: Home) -> None:
    uuids = first_uuids(home, 10)
    well.behave(refused_uuids=uuids)
    fleet = new_fleet()
    with pytest.raises(HypervisorExited, match=r"Could not create vmnet interface[\s\S]*32 interfaces .* VPN"):
        fleet.start(ForegroundRequest(TINY))
    well.behave()
    with fleet.start(ForegroundRequest(TINY)) as guest:
        assert guest.uuid == uuids[0]


def test_uuid_that_a_left_over_process_holds(new_fleet: NewFleet, well: Mac, home: Home, tmp_path: Path) -> None:
    uuid = first_uuids(home, 1)[0]
    image = new_fleet().catalog.find("tiny")
    words = f"-A -m 128M -s 0:0,hostbridge -s 2:0,virtio-net -s 31,lpc -U {uuid} -f kexec,{image.kernel},,panic=0"
    before = len(well.journal())
    with subprocess.Popen([well.install(tmp_path / "other"), *words.split()]) as left:
        try:
            end = time.monotonic() + 20
            while not any(entry.end for entry in well.journal()[before:]):
                assert time.monotonic() < end
                time.sleep(0.01)
            held = rf"process {left.pid} runs a guest with the UUID {uuid}"
            with pytest.raises(HypervisorExited, match=held):
                new_fleet().start(ForegroundRequest(TINY))
            # Also where the UUID was asked about before.
            UuidCache(home.folder("vmnet")).save(UUID(uuid), UuidRecord(mac="02:00:00:00:00:01"))
            with pytest.raises(HypervisorExited, match=held):
                new_fleet().start(ForegroundRequest(TINY))
        finally:
            left.kill()


@pytest.mark.thorough
def test_hanging_vmnet_is_noticed(new_fleet: NewFleet, well: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_SET_UP_SECONDS", 2.0)
    well.behave(vmnet_hangs=True)
    start = time.monotonic()
    with pytest.raises(HypervisorExited, match=r"did not create its network card within 2 s: vmnet hangs"):
        new_fleet().start(ForegroundRequest(TINY))
    assert time.monotonic() - start < 10
    well.behave()
    with new_fleet().start(ForegroundRequest(TINY)):
        pass


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("silent", r"DHCP server did not answer[\s\S]*socketfilterfw --add[\s\S]*launchctl enable"),
        pytest.param("never", r"has no lease for the guest|no guest ever got a lease", marks=pytest.mark.thorough),
    ],
)
def test_guest_without_a_lease_is_explained(new_fleet: NewFleet, well: Mac, style: str, words: str) -> None:
    # As long as a kernel takes to ask for an address, on a machine that has much else to do.
    fleet = new_fleet(boot_timeout=10.0)
    well.behave(lease_style=style)
    with pytest.raises(LeaseNotFound, match=words):
        fleet.start(ForegroundRequest(TINY))


@pytest.mark.thorough
def test_guest_that_the_host_may_not_reach(new_fleet: NewFleet) -> None:
    """As on macOS 15 and later without the permission for the local network: an error in seconds, not after 120."""
    fleet = new_fleet()
    with fleet.start(ForegroundRequest(TINY)) as guest:
        host = guest.host
    subprocess.run(["ip", "route", "add", "unreachable", "default", "table", "99"], check=True)
    rule = ["to", host, "ipproto", "tcp", "dport", "22", "table", "99"]
    subprocess.run(["ip", "rule", "add", *rule], check=True)
    try:
        with pytest.raises(BootFailed, match=rf'got the address {host}, but .*"no route to host"') as raised:
            fleet.start(ForegroundRequest(TINY))
    finally:
        subprocess.run(["ip", "rule", "del", *rule], check=True)
        subprocess.run(["ip", "route", "flush", "table", "99"], check=True)
    assert sum(raised.value.phases.values()) < 40


@pytest.mark.thorough
@pytest.mark.parametrize("style", ["nameless", "duplicate", "duid", "duid-ll"])
def test_odd_leases_are_understood(new_fleet: NewFleet, well: Mac, style: str) -> None:
    well.behave(lease_style=style)
    with new_fleet().start(ForegroundRequest(TINY)) as guest:
        assert guest.run("cat /sys/class/net/eth0/address").stdout.strip() == guest.mac


def test_many_processes_at_once(well: Mac, home: Home, tmp_path: Path) -> None:
    """Two runs, one of them with two workers: no address twice, and vmnet is set up by one at a time."""
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "test_it.py").write_text(
        "import os, pathlib, time, pytest\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "def test_guest(xhyve_guest, number):\n"
        "    seen = pathlib.Path(__file__).parent / f'{os.environ[\"RUN\"]}-{number}'\n"
        "    seen.write_text(f'{time.time()} {xhyve_guest.host} {xhyve_guest.uuid} {xhyve_guest.mac}')\n"
        "    time.sleep(1)\n"
        "    with seen.open('a') as file: file.write(f' {time.time()}')\n"
    )
    before = len(well.journal())
    program = well.install(tmp_path / "xhyve", "head")
    runs = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers),
                *("--xhyve-image=tiny", *Chosen("xhyve", program).options),
            ],
            cwd=suite,
            env=os.environ | {HOME_VARIABLE: str(home.path), "RUN": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, workers in (("a", ("-n", "2")), ("b", ()))
    ]
    for run in runs:
        said, _ = run.communicate(timeout=240)
        assert run.returncode == 0, said
    seen = [path.read_text().split() for path in suite.glob("[ab]-*")]
    assert len(seen) == 4
    for begin, host, uuid, mac, _ in seen:
        alive = [entry for entry in seen if float(entry[0]) <= float(begin) < float(entry[4])]
        for column, value in ((1, host), (2, uuid), (3, mac)):
            assert [entry[column] for entry in alive].count(value) == 1
    entries = well.journal()[before:]
    assert len(entries) >= 4
    assert not [entry for entry in entries if entry.overlapped or entry.refused]


@pytest.mark.thorough
def test_power_button_where_ssh_is_gone(new_fleet: NewFleet) -> None:
    with new_fleet(timeout_factor=0.2).start(ForegroundRequest(TINY)) as guest:
        # Until then it has no daemon that listens to the button.
        guest.wait_for("pidof acpid")
        guest.run("sed -i /dropbear/d /etc/inittab && kill -HUP 1; killall -9 dropbear", check=False)
        guest.shutdown()
        assert "reboot: Power down" in guest.console.text


@pytest.mark.thorough
def test_restart_from_inside_is_told(new_fleet: NewFleet) -> None:
    with new_fleet().start(ForegroundRequest(TINY)) as guest:
        guest.run("reboot", check=False)
        with pytest.raises(XhyveError, match=r"the guest restarted[\s\S]*guest\.reboot\(\)"):
            guest.wait_for("false")
        guest.start()
        assert guest.run("echo well").stdout == "well\n"


def test_auto_takes_what_works(well: Mac, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    well.install(folder / "xhyve", "head")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    said: list[str] = []
    with closing(Fleet(Settings(), home, Recorder(said))) as fleet:
        assert fleet.hypervisor.info.name == "xhyve"
    assert said == []
    (home.path / "vmnet").rename(home.path / "forgotten")
    well.behave(hv_missing=True)
    with closing(Fleet(Settings(), home, Recorder(said))) as fleet:
        assert fleet.hypervisor.info.name == "qemu"
    assert "xhyve is installed but does not work here" in said[0]
    assert "Intel CPU with VT-x" in said[0]


def test_refusal_is_not_remembered(well: Mac, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does what the message says shall not have to restart the host."""
    folder = tmp_path / "bin"
    folder.mkdir()
    well.install(folder / "xhyve", "head")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    well.behave(interfaces=0)
    with closing(Fleet(Settings(), home)) as fleet:
        assert fleet.hypervisor.info.name == "qemu"
    well.behave()
    with closing(Fleet(Settings(), home)) as fleet:
        assert fleet.hypervisor.info.name == "xhyve"


def test_program_that_was_named_and_does_not_work(well: Mac, home: Home, tmp_path: Path) -> None:
    program = well.install(tmp_path / "some-name", "head")
    well.behave(interfaces=0)
    settings = Settings(executable=str(program))
    with (
        closing(Fleet(settings, home)) as fleet,
        pytest.raises(HypervisorNotFound, match="Could not create vmnet interface"),
    ):
        assert fleet.hypervisor
    well.behave()
    with closing(Fleet(settings, home)) as fleet:
        assert fleet.hypervisor.info.name == "xhyve"


@pytest.mark.thorough
def test_program_by_a_relative_path(
    new_fleet: NewFleet, well: Mac, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well.install(tmp_path / "build" / "xhyve", "head")
    monkeypatch.chdir(tmp_path)
    settings = Settings(hypervisor="xhyve", executable="build/xhyve")
    with closing(Fleet(settings, home)) as fleet, fleet.start(ForegroundRequest(TINY)) as guest:
        assert guest.run("echo well").stdout == "well\n"
        with pytest.raises(NotSupported, match="vmnet selects the Ethernet address"):
            fleet.start(
                ForegroundRequest(TINY, hook=lambda machine: replace(machine, nics=(Nic("52:54:00:00:00:01"),)))
            )
