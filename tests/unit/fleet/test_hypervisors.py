"""Each architecture of a run's guests has its hypervisor."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from fake_images import write_image

from pytest_xhyve.fleet.hypervisors import Hypervisors, default_architectures
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.choice import select_hypervisor
from pytest_xhyve.hypervisors.qemu.driver import Qemu
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.model.architecture import ARM64, X86_64, Architecture
from pytest_xhyve.model.errors import HypervisorNotFound
from pytest_xhyve.model.settings import Settings


@pytest.fixture(autouse=True)
def host_of_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def fake_qemu(folder: Path, name: str) -> Path:
    program = folder / name
    program.write_text('#!/bin/sh\necho "QEMU emulator version 9.0.0"\n')
    program.chmod(0o755)
    return program


def test_architectures_of_the_images(new_home: Home, tmp_path: Path) -> None:
    manifest = str(write_image(tmp_path, arch="arm64"))
    for images, found in [
        (("tiny",), (X86_64,)),
        (("tiny-arm64", "debian12-aarch64"), (ARM64,)),
        (("tiny", manifest), (X86_64, ARM64)),
        # The first guest reports it.
        (("no-such-image",), (X86_64,)),
    ]:
        assert default_architectures(Settings(images=images), new_home) == found


def test_one_for_each(new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in (X86_64.program, ARM64.program):
        fake_qemu(tmp_path, name)
    hypervisors = Hypervisors(Settings(images=("tiny",), accel="tcg"), new_home, lambda _: None)
    image = read_manifest(write_image(tmp_path, arch="aarch64"))
    foreign, own = hypervisors.for_image(image), hypervisors.default
    assert isinstance(foreign, Qemu)
    assert isinstance(own, Qemu)
    assert (foreign.architecture, own.architecture) == (ARM64, X86_64)
    assert hypervisors.for_image(image) is foreign
    assert hypervisors.for_image(None) is own


@pytest.mark.parametrize(
    ("host", "architecture", "words"),
    [
        ("x86_64", ARM64, r"for guests of aarch64, looked for qemu-system-aarch64 .*\n.*: qemu-system-arm and"),
        ("aarch64", X86_64, r"for guests of x86_64, looked for qemu-system-x86_64 .*\n.*: qemu-system-x86 and"),
        ("arm64", X86_64, r"for guests of x86_64, looked for qemu-system-x86_64 .*\n.* macOS: brew install qemu"),
    ],
)
def test_missing_emulator_is_named_with_its_package(
    new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, architecture: Architecture, words: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: host)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HypervisorNotFound, match=words):
        select_hypervisor(Settings(), new_home, lambda _: None, architecture)


@pytest.mark.parametrize("name", ["xhyve", "hyperkit"])
def test_xhyve_runs_no_guests_of_arm64(new_home: Home, name: str) -> None:
    settings = Settings(hypervisor=name)  # type: ignore[arg-type]
    with pytest.raises(HypervisorNotFound, match=f"{name} runs guests of x86_64 only, and these are aarch64\n"):
        select_hypervisor(settings, new_home, lambda _: None, ARM64)


def test_program_for_another_architecture(new_home: Home, tmp_path: Path) -> None:
    program = fake_qemu(tmp_path, X86_64.program)
    settings = Settings(hypervisor="qemu", executable=str(program))
    with pytest.raises(
        HypervisorNotFound, match=r"runs guests of x86_64, and these are aarch64\n.*qemu-system-aarch64"
    ):
        select_hypervisor(settings, new_home, lambda _: None, ARM64)
