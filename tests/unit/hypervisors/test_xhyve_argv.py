"""What the driver writes on xhyve's command line: the stand-in's own parser reads back the same machine."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import get_args
from uuid import UUID

import pytest
from fake_images import KERNEL, make_kernel
from hypothesis import given
from hypothesis import strategies as st
from standin.commandline import Build as StandInBuild
from standin.commandline import CommandLine, parse
from standin.devices import parse_disk
from waiting import has_its_command_line

from pytest_xhyve.hypervisors.xhyve.argv import argv_for, check_machine, probe_argv, remove_stale_pidfile
from pytest_xhyve.hypervisors.xhyve.build import Build
from pytest_xhyve.model.errors import ConfigurationError, HypervisorExited, ImageError, NotSupported
from pytest_xhyve.model.machine import Disk, Machine, Nic

BUILDS = get_args(StandInBuild)


def build_of(name: StandInBuild) -> Build:
    is_new = name != "v0.2.0"
    is_hyperkit = name == "hyperkit"
    return Build("hyperkit" if is_hyperkit else "xhyve", "1", is_new, is_new, is_hyperkit, MappingProxyType({}))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in ("disk.raw", "vmlinuz", "initrd"):
        (tmp_path / name).write_bytes(KERNEL)
    return Machine(
        name="g",
        uuid=UUID("8e7af180-c54d-4aa2-9bef-59d94a1ac572"),
        cpus=2,
        cpu="x86-64-v2",
        memory=256 << 20,
        disks=(Disk(tmp_path / "disk.raw"),),
        nics=(Nic("52:54:00:00:00:01"),),
        kernel=tmp_path / "vmlinuz",
        initrd=tmp_path / "initrd",
        cmdline="console=ttyS0 root=/dev/vda",
    )


def read_back(machine: Machine, build: StandInBuild, folder: Path) -> CommandLine:
    return parse(["xhyve", *argv_for(machine, build_of(build), folder)], build)


def test_words_for_head(machine: Machine, tmp_path: Path) -> None:
    argv = argv_for(machine, build_of("head"), tmp_path)
    assert argv[argv.index("-U") + 1] == "8e7af180-c54d-4aa2-9bef-59d94a1ac572"
    assert argv[argv.index("-f") + 1] == "kexec,vmlinuz,initrd,console=ttyS0 root=/dev/vda"
    assert argv[argv.index("-F") + 1] == f"{tmp_path}/hypervisor.pid"
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "-s"] == [
        "0:0,hostbridge", "2:0,virtio-net", "3:0,virtio-rnd", "4:0,virtio-blk,disk.raw", "31,lpc",
    ]  # fmt: skip


def test_every_build_has_the_pidfile_in_its_command_line(machine: Machine, tmp_path: Path) -> None:
    """By that it is known whose process it is, also where no option takes it."""
    for build in BUILDS:
        assert f"{tmp_path}/hypervisor.pid" in argv_for(machine, build_of(build), tmp_path)
    assert read_back(machine, "v0.2.0", tmp_path).pidfile is None
    assert read_back(machine, "head", tmp_path).pidfile == f"{tmp_path}/hypervisor.pid"


paths = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200
)


@given(
    build=st.sampled_from(BUILDS),
    cpus=st.integers(1, 16),
    mib=st.integers(1, 1 << 20),
    uuid=st.uuids(),
    cmdline=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200),
    names=st.lists(paths, max_size=4, unique=True),
    has_initrd=st.booleans(),
    has_nic=st.booleans(),
    cdroms=st.integers(0, 2),
)
def test_the_same_machine_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    build: StandInBuild,
    cpus: int,
    mib: int,
    uuid: UUID,
    cmdline: str,
    names: list[str],
    has_initrd: bool,
    has_nic: bool,
    cdroms: int,
) -> None:
    folder = tmp_path_factory.mktemp("guest")
    other = tmp_path_factory.mktemp("other, with a comma")
    disks = [(folder if number % 2 else other) / name for number, name in enumerate(names)]
    machine = Machine(
        name="g",
        uuid=uuid,
        cpus=cpus,
        cpu="x86-64-v2",
        memory=mib << 20,
        disks=tuple(Disk(path) for path in disks),
        nics=(Nic(None),) if has_nic else (),
        kernel=other / "vmlinuz",
        initrd=other / "initrd" if has_initrd else None,
        cmdline=cmdline,
        cdroms=tuple(other / f"{number}.iso" for number in range(cdroms)),
    )
    read = read_back(machine, build, folder)
    assert read.firmware is not None
    assert (read.cpus, read.memory, read.acpi, read.utc) == (cpus, mib << 20, True, True)
    assert read.uuid == str(uuid)
    assert read.com == {"COM1": "stdio"}
    assert read.firmware.cmdline == cmdline
    assert (folder / read.firmware.kernel).readlink() == machine.kernel
    assert bool(read.firmware.initrd) == has_initrd
    devices = {device.slot: device for device in read.devices}
    emulations = [device.emulation for device in read.devices]
    assert emulations.count("virtio-net") == has_nic
    # The card is made before the disks are opened and before the serial port.
    assert emulations.index("lpc") == len(emulations) - 1
    drives = [parse_disk(device.config, build) for slot, device in sorted(devices.items()) if slot >= 4 and slot < 31]
    backing = [
        (folder / drive.path).readlink() if (folder / drive.path).is_symlink() else folder / drive.path
        for drive in drives
    ]
    assert backing == [*disks, *machine.cdroms]
    assert [drive.read_only for drive in drives] == [False] * len(disks) + [True] * cdroms


@pytest.mark.parametrize("build", BUILDS)
def test_question_for_the_address_is_understood(build: StandInBuild) -> None:
    uuid = UUID(int=7)
    read = parse(["xhyve", *probe_argv(uuid, build_of(build))], build)
    assert read.uuid == str(uuid)
    assert read.print_mac == (build != "v0.2.0")
    assert [device.emulation for device in read.devices] == ["hostbridge", "virtio-net", "lpc"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"cpus": 17}, NotSupported, r"at most 16 CPUs, not 17; use QEMU"),
        ({"nics": (Nic(None), Nic(None))}, NotSupported, r"one network card, not 2; use QEMU"),
        ({"nics": (Nic(None, network="none"),)}, NotSupported, r"network='none'.*\n.*--xhyve-hypervisor=qemu"),
        ({"disks": (Disk(Path("/dev/null"), "qcow2"),)}, NotSupported, r"only raw disks; use QEMU"),
        ({"disks": (Disk(Path("/dev/null")),) * 28}, NotSupported, r"at most 27 drives"),
        ({"firmware": "bios"}, NotSupported, r'has no BIOS: .*use QEMU for firmware="bios"'),
        ({"firmware": "uefi", "kernel": None}, NotSupported, r'no UEFI firmware .*use QEMU for firmware="uefi"'),
        ({"graphics": True}, NotSupported, r"no graphics card that the plugin can read; use QEMU"),
        ({"memory": 1000}, ConfigurationError, r"at least 1M"),
        ({"memory": 2 << 20}, ImageError, r"need 5M of memory, but the guest has 2M"),
        ({"memory": 4 << 20}, ImageError, r"need 5M of memory, but the guest has 4M"),
        ({"cmdline": "console=ttyS0 acpi=off ro"}, NotSupported, r"Linux 4\.15 and later hangs[\s\S]*remove the word"),
        ({"cmdline": "x" * 2047}, ImageError, r"has 2047 bytes, but .*vmlinuz accepts at most 2047"),
        ({"disks": (Disk(Path("/no/such")),)}, ImageError, r"this user may not write to /no/such"),
    ],
)
def test_what_cannot_be_said_is_refused_before_anything_starts(
    machine: Machine, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    if "memory" in changes:
        assert machine.kernel is not None
        machine.kernel.write_bytes(make_kernel(init_size=3 << 20 if changes["memory"] != 1000 else 0))
        machine = replace(machine, initrd=None)
    with pytest.raises(error, match=words):
        check_machine(replace(machine, **changes), build_of("head"))  # type: ignore[arg-type]


def test_whole_machine_is_taken(machine: Machine) -> None:
    check_machine(replace(machine, cmdline="x" * 2046, cpus=16), build_of("head"))
    check_machine(replace(machine, cmdline="acpi=offline noacpi=off"), build_of("head"))


def test_hyperkit_has_more_cpus(machine: Machine) -> None:
    check_machine(replace(machine, cpus=64), build_of("hyperkit"))
    with pytest.raises(NotSupported, match="hyperkit supports at most 64 CPUs, not 65"):
        check_machine(replace(machine, cpus=65), build_of("hyperkit"))


@pytest.mark.parametrize(
    "kernel",
    [
        b"no kernel",
        make_kernel(protocol=0x0209),
        make_kernel(load_flags=0),
        make_kernel(setup_sectors=0),
        KERNEL[:0x1FE] + b"\0\0" + KERNEL[0x200:],
    ],
)
def test_kernel_that_would_end_in_an_abort(machine: Machine, kernel: bytes) -> None:
    assert machine.kernel is not None
    machine.kernel.write_bytes(kernel)
    with pytest.raises(ImageError, match=r"cannot boot .*vmlinuz.*protocol 2\.10"):
        check_machine(machine, build_of("head"))


def test_pidfile_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "hypervisor.pid"
    stale.write_text("1")
    remove_stale_pidfile(stale)
    assert not stale.exists()
    remove_stale_pidfile(stale)


def test_pidfile_of_a_live_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "hypervisor.pid"
    with subprocess.Popen(["tail", "-F", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert has_its_command_line(process.pid)
            path.write_text(str(process.pid))
            with pytest.raises(HypervisorExited, match=f"process {process.pid}"):
                remove_stale_pidfile(path)
        finally:
            process.kill()
    assert path.exists()
