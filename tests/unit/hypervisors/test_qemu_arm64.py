"""QEMU for arm64 guests: its command line, the proof of its acceleration, its firmware.

What QEMU itself can answer, it does, where its program for arm64 is installed.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from assembler import assemble

from pytest_xhyve.formats.arm64_kernel import read_arm64_kernel
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.qemu import acceleration
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.hypervisors.qemu.firmware import find_ovmf
from pytest_xhyve.hypervisors.qemu.proof_programs import Arm64Image
from pytest_xhyve.model.architecture import ARM64
from pytest_xhyve.model.errors import HypervisorNotFound
from pytest_xhyve.model.machine import Disk, Machine, Nic

PROGRAM = shutil.which(ARM64.program)
needs_qemu = pytest.mark.skipif(PROGRAM is None, reason=f"{ARM64.program} is not installed")


def fake(tmp_path: Path, script: str) -> str:
    """A program that answers ``--version`` as QEMU does, and else runs *script*."""
    program = tmp_path / "qemu-system-aarch64"
    program.write_text(
        '#!/bin/sh\ncase $1 in --version) echo "QEMU emulator version 11.0.0"; exit;; esac\n'
        f'echo "$@" >{tmp_path}/argv\n{script}\n'
    )
    program.chmod(0o755)
    return str(program)


def machine(folder: Path) -> Machine:
    return Machine(
        name="g",
        uuid=UUID("8e7af180-c54d-4aa2-9bef-59d94a1ac572"),
        cpus=2,
        cpu=ARM64.default_cpu,
        memory=256 << 20,
        disks=(Disk(folder / "disk.raw"),),
        nics=(Nic("52:54:00:00:00:01", (22,)),),
        kernel=folder / "Image",
        initrd=None,
        cmdline=f"console={ARM64.console}",
    )


def values(argv: list[str], option: str) -> list[str]:
    return [argv[number + 1] for number, word in enumerate(argv) if word == option]


def test_command_line_on_apple_silicon(tmp_path: Path) -> None:
    qemu = Qemu(executable=fake(tmp_path, ""), accel="hvf", cache=tmp_path, architecture=ARM64)
    argv = qemu.argv(machine(tmp_path), tmp_path)
    # Named CPUs fail under hvf, and QEMU finds out by itself how much memory it can address (highmem).
    assert (values(argv, "-machine"), values(argv, "-accel"), values(argv, "-cpu")) == (["virt"], ["hvf"], ["host"])
    emulated = Qemu(executable=fake(tmp_path, ""), accel="tcg", cache=tmp_path, architecture=ARM64)
    assert values(emulated.argv(machine(tmp_path), tmp_path), "-cpu") == ["cortex-a57"]


def test_program_of_the_architecture_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HypervisorNotFound, match=r"looked for qemu-system-aarch64 in PATH[\s\S]*qemu-system-arm and"):
        Qemu(executable=None, accel="auto", cache=tmp_path, architecture=ARM64)


def test_proof_on_apple_silicon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    proof = acceleration.prove(fake(tmp_path, "printf k"), "11", "hvf", tmp_path, ARM64)
    assert proof == Proof(True, "proved by a test program")
    assert "-machine virt,accel=hvf -cpu host" in (tmp_path / "argv").read_text()


def test_host_of_another_architecture_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    proof = acceleration.prove("/no/such/qemu", "11", "kvm", tmp_path, ARM64)
    assert proof == Proof(False, "the processor of this host is x86_64, and guests are aarch64")


def test_proofs_program_is_what_its_source_says(tmp_path: Path) -> None:
    assert assemble(Path(__file__).with_name("proof_aarch64.S"), tmp_path, "aarch64-linux-gnu-") == Arm64Image.code


def test_proofs_file_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "Image").write_bytes(Arm64Image.file)
    kernel = read_arm64_kernel(tmp_path / "Image")
    assert kernel is not None
    assert kernel.form == "Image"


@needs_qemu
def test_qemu_takes_the_command_line(tmp_path: Path) -> None:
    """With the program of the proof as its kernel, which writes its letter and turns the machine off."""
    qemu = Qemu(executable=PROGRAM, accel="tcg", cache=tmp_path, architecture=ARM64)
    (tmp_path / "Image").write_bytes(Arm64Image.file)
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    argv = qemu.argv(machine(tmp_path), tmp_path)
    at = argv.index("-chardev", argv.index("-serial"))
    # The monitor's descriptor belongs to the guardian.
    del argv[at : at + 4]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "console.log").read_bytes() == b"k"


def test_homebrews_firmware(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "qemu-system-aarch64"
    share = tmp_path / "share" / "qemu"
    for path in (program, share / "edk2-aarch64-code.fd", share / "edk2-arm-vars.fd"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_ovmf(program, (), ARM64)
    assert found.code.resolve() == share / "edk2-aarch64-code.fd"
    assert found.variables.resolve() == share / "edk2-arm-vars.fd"
