"""vfkit's command line, held to the parser of its stand-in; its versions; what its errors mean."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from standin.vfkit.flags import VERSION, parse_flags
from standin.vfkit.machine import read_configuration
from standin.vfkit.rest import MAX_PATH, socket_path

from pytest_xhyve.host.guardian import Guardian
from pytest_xhyve.hypervisors.base import OtherProgram, VirtualMachine
from pytest_xhyve.hypervisors.vfkit.argv import (
    MAX_SOCKET_PATH,
    argv_for,
    check_machine,
    has_rest,
    rest_socket,
    with_console,
)
from pytest_xhyve.hypervisors.vfkit.diagnosis import explain
from pytest_xhyve.hypervisors.vfkit.driver import Vfkit
from pytest_xhyve.hypervisors.vfkit.program import ask_version, find_program
from pytest_xhyve.hypervisors.vfkit.proof import prove_that_it_runs
from pytest_xhyve.model.errors import HypervisorNotFound, ImageError, NotSupported
from pytest_xhyve.model.machine import Disk, Machine, Nic

IMAGE = bytes(0x38) + b"ARM\x64" + bytes(8)


def zboot(compression: str, packed: bytes) -> bytes:
    """As zboot-header.S lays it out."""
    return struct.pack("<HH4sIIQ32s", 0x5A4D, 0, b"zimg", 64, len(packed), 0, compression.encode()).ljust(64) + packed


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in ("disk", "a,b", "kernel", "initrd", "seed.iso"):
        (tmp_path / name).write_bytes(IMAGE)
    return Machine(
        name="web",
        uuid=UUID(int=1),
        cpus=2,
        cpu="x86-64-v2",
        memory=512 << 20,
        disks=(Disk(tmp_path / "disk"), Disk(tmp_path / "a,b")),
        nics=(Nic("52:54:00:00:00:01"),),
        lan_macs=("52:55:00:00:00:01", "52:55:00:00:00:02"),
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        cmdline='root=/dev/vda console=ttyS0,115200 dyndbg="file a,b +p"',
        cdroms=(tmp_path / "seed.iso",),
    )


def test_vfkit_reads_what_the_driver_writes(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_machine(machine)
    flags = parse_flags(argv_for(machine, tmp_path))
    bootloader, devices = read_configuration(flags)
    assert (flags.cpus, flags.memory) == (2, 512)
    assert bootloader.options == {
        "kernel": str(machine.kernel),
        "initrd": str(machine.initrd),
        "cmdline": 'root=/dev/vda console=hvc0 dyndbg="file a,b +p"',
    }
    assert [(device.kind, device.options) for device in devices] == [
        ("virtio-serial", {"stdio": ""}),
        ("virtio-rng", {}),
        ("virtio-net", {"nat": "", "mac": "52:54:00:00:00:01"}),
        ("virtio-net", {"fd": "20", "mac": "52:55:00:00:00:01"}),
        ("virtio-net", {"fd": "21", "mac": "52:55:00:00:00:02"}),
        ("virtio-blk", {"path": "disk"}),
        ("virtio-blk", {"path": "link-to-disk1"}),
        ("virtio-blk", {"path": "seed.iso", "readonly": ""}),
    ]
    assert (tmp_path / "link-to-disk1").resolve() == tmp_path / "a,b"
    assert (tmp_path / "hypervisor.pid").exists()


def test_socket(machine: Machine, tmp_path: Path) -> None:
    assert MAX_SOCKET_PATH == MAX_PATH
    odd = tmp_path / "100% a?b#c"
    odd.mkdir()
    if has_rest(odd):
        assert socket_path(parse_flags(argv_for(machine, odd)).restful_uri) == str(rest_socket(odd))
    deep = tmp_path / ("x" * MAX_PATH)
    deep.mkdir()
    assert parse_flags(argv_for(machine, deep)).restful_uri == "none://"
    long = Path("/") / ("x" * (MAX_PATH - len("/rest") - 1))
    assert has_rest(long)
    assert not has_rest(long.with_name(f"{long.name}x"))


def test_firmware_keeps_its_variables(machine: Machine, tmp_path: Path) -> None:
    # As the plugin describes such a machine; vfkit's gets no screen.
    uefi = replace(machine, firmware="uefi", kernel=None, initrd=None, graphics=True)
    check_machine(uefi)
    assert parse_flags(argv_for(uefi, tmp_path)).bootloader == ["efi", "variable-store=efi-variables", "create"]
    (tmp_path / "efi-variables").touch()
    assert parse_flags(argv_for(uefi, tmp_path)).bootloader == ["efi", "variable-store=efi-variables"]


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("root=/dev/vda console=ttyS0 ro", "root=/dev/vda console=hvc0 ro"),
        ("console=ttyAMA0 console=tty0", "console=hvc0 console=tty0"),
        ("console=ttyS0 console=ttyS1 x", "console=hvc0 x"),
        ("root=/dev/vda", "root=/dev/vda"),
        ("xconsole=ttyS0", "xconsole=ttyS0"),
    ],
)
def test_console(cmdline: str, expected: str) -> None:
    assert with_console(cmdline) == expected


class Starts:
    """Starts machines with a program that reports at once that its guest runs.

    Args:
        guardian: owns the processes.
        folder: the run's folder.
        tmp_path: for the program, and its command line.
    """

    def __init__(self, guardian: Guardian, folder: Path, tmp_path: Path) -> None:
        self._guardian = guardian
        self._folder = folder
        self._argv = tmp_path / "argv"
        program = tmp_path / "vfkit"
        program.write_text(
            f"#!/bin/sh\n[ $1 = --version ] && echo 'vfkit version: {VERSION}' && exit\n"
            f'printf "%s\\n" "$@" >{self._argv}\n'
            "echo 'msg=\"virtual machine is running\"' >&2; exec sleep 60\n"
        )
        program.chmod(0o755)
        self._vfkit = Vfkit(program=str(program), cache=tmp_path)
        self._number = 0

    @contextmanager
    def running(self, machine: Machine) -> Iterator[tuple[VirtualMachine, float]]:
        """The running *machine*, and the seconds that its start took."""
        self._number += 1
        with self._guardian.guard(self._folder / str(self._number), [], {}) as process:
            begin = time.monotonic()
            with self._vfkit.running(machine, process) as vm:
                yield vm, time.monotonic() - begin

    @property
    def kernel(self) -> Path:
        """The kernel on the command line of the last start."""
        words = self._argv.read_text().splitlines()
        return Path(words[words.index("--kernel") + 1])


@pytest.fixture
def starts(guardian: Guardian, run_folder: Path, tmp_path: Path) -> Starts:
    (run,) = run_folder.iterdir()
    return Starts(guardian, run, tmp_path)


def test_compressed_kernel_is_unpacked(starts: Starts, machine: Machine) -> None:
    """Into the guest's folder, as vfkit loads no other kernel for arm64."""
    assert machine.kernel is not None
    with starts.running(machine):
        assert starts.kernel == machine.kernel
    for content in (gzip.compress(IMAGE), zboot("gzip", gzip.compress(IMAGE))):
        machine.kernel.write_bytes(content)
        with starts.running(machine):
            unpacked = starts.kernel
            assert unpacked != machine.kernel
            assert unpacked.read_bytes() == IMAGE
        assert not unpacked.exists()
        assert machine.kernel.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zboot("zstd", b"packed"), r"compressed by zstd[\s\S]*uncompressed kernel, or firmware: uefi"),
        (zboot("gzip", b"garbage"), "is damaged"),
        (zboot("gzip", gzip.compress(IMAGE))[:-1], "is truncated"),
    ],
    # A gzip file states when it was made, which differs between xdist's workers.
    ids=["zstd", "damaged", "truncated"],
)
def test_kernel_that_cannot_be_unpacked(starts: Starts, machine: Machine, content: bytes, words: str) -> None:
    assert machine.kernel is not None
    machine.kernel.write_bytes(content)
    with pytest.raises(ImageError, match=words), starts.running(machine):
        pass


def test_what_it_cannot_express(machine: Machine) -> None:
    with pytest.raises(NotSupported, match="only raw disks; use QEMU"):
        check_machine(replace(machine, disks=(Disk(machine.disks[0].path, "qcow2"),)))
    with pytest.raises(NotSupported, match="no BIOS"):
        check_machine(replace(machine, firmware="bios"))
    with pytest.raises(NotSupported, match=r"cannot limit[\s\S]*--xhyve-hypervisor=qemu"):
        check_machine(replace(machine, nics=(Nic("52:54:00:00:00:01", network="isolated"),)))


def test_versions() -> None:
    def ask(output: str, code: int | None = 0) -> str:
        return ask_version("/opt/vfkit", lambda _: (code, output))

    assert ask(f"vfkit version: {VERSION}\n") == VERSION
    assert ask("vfkit version: v0.6.2-3-gabcdef0\n") == "v0.6.2-3-gabcdef0"
    assert ask("vfkit version: \n") == "unknown"
    for old in ("v0.6.1", "0.5.1", "v0.1.0"):
        with pytest.raises(HypervisorNotFound, match=rf"{old}, which is too old: the plugin needs 0\.6\.2"):
            ask(f"vfkit version: {old}\n")
    with pytest.raises(OtherProgram, match=r"is not vfkit: .* 'QEMU emulator version 7'"):
        ask("QEMU emulator version 7\n")
    with pytest.raises(OtherProgram, match="exit code None and printed 'no such file'"):
        ask("no such file", None)
    with pytest.raises(HypervisorNotFound, match="macOS killed /opt/vfkit at once"):
        ask("", -9)


def test_program_that_is_not_there() -> None:
    with pytest.raises(HypervisorNotFound, match=r"looked for gone-vfkit in PATH\n.*brew install vfkit"):
        find_program("gone-vfkit")


@pytest.mark.parametrize(
    ("output", "fix"),
    [
        ("Error: unknown flag: --pidfile\nUsage:\nunknown flag: --pidfile", "brew upgrade vfkit"),
        ('It lacks the "com.apple.security.virtualization" entitlement.', "brew reinstall vfkit"),
        ("The storage device attachment is invalid", "cannot open a disk"),
        ("Invalid virtual machine configuration.", "--xhyve-cpus, --xhyve-memory"),
        ("listen unix /x: bind: address already in use", "pytest-xhyve reap"),
    ],
)
def test_errors_have_a_fix(output: str, fix: str) -> None:
    text = explain("v0.6.4", 1, output, 30)
    assert text.startswith(f"vfkit v0.6.4 ended with exit code 1: {output.splitlines()[-1]}")
    assert fix in text


def test_errors_without_a_known_cause() -> None:
    assert explain("v0.6.4", 1, "", 30) == "vfkit v0.6.4 ended with exit code 1: it printed nothing"
    assert "did not report within 30 s" in explain("v0.6.4", None, "", 30)
    killed = explain("v0.6.4", -9, "", 30)
    assert killed.startswith("vfkit v0.6.4 was killed by signal 9: it printed nothing\n")
    assert "memory was low" in killed
    assert "DiagnosticReports" in explain("v0.6.4", -11, "", 30)


def test_driver_adds_little_to_a_start(starts: Starts, machine: Machine) -> None:
    """The best of five starts shows the driver itself."""
    seconds = []
    for _ in range(5):
        with starts.running(machine) as (vm, took):
            seconds.append(took)
            assert len(vm.lan_ends) == len(machine.lan_macs)
    assert min(seconds) <= 0.15


def test_proof(tmp_path: Path) -> None:
    program = tmp_path / "vfkit"

    def prove(script: str) -> tuple[bool, str]:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        proof = prove_that_it_runs(str(program), "v0.6.4")
        return proof.works, proof.reason

    works, _ = prove("echo 'msg=\"virtual machine is running\"' >&2; exec sleep 60")
    assert works
    works, reason = prove("echo 'Virtualization is not available on this hardware' >&2; exit 1")
    assert not works
    assert "exit code 1" in reason
    assert "nested virtualization" in reason
    program.unlink()
    assert not prove_that_it_runs(str(program), "v0.6.4").works
