"""OVMF's files: where they are found, and the copy of the variables that each guest has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_xhyve.hypervisors.qemu.firmware import VARIABLES, find_ovmf
from pytest_xhyve.model.architecture import ARM64
from pytest_xhyve.model.errors import HypervisorNotFound


def install(code: Path, variables: Path) -> tuple[str, str]:
    for path in (code, variables):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    return str(code), str(variables)


def test_first_complete_pair_is_taken(tmp_path: Path) -> None:
    half = (str(tmp_path / "code"), str(tmp_path / "missing"))
    (tmp_path / "code").touch()
    places = [half, install(tmp_path / "b" / "code", tmp_path / "b" / "variables")]
    ovmf = find_ovmf(tmp_path / "bin" / "qemu", places)
    assert (ovmf.code, ovmf.variables) == (tmp_path / "b" / "code", tmp_path / "b" / "variables")


def test_qemu_has_its_own(tmp_path: Path) -> None:
    """As Homebrew installs it: the program in PATH is a link."""
    share = tmp_path / "Cellar" / "share" / "qemu"
    install(share / "edk2-x86_64-code.fd", share / "edk2-i386-vars.fd")
    program = tmp_path / "Cellar" / "bin" / "qemu"
    program.parent.mkdir()
    program.touch()
    (tmp_path / "qemu").symlink_to(program)
    assert find_ovmf(tmp_path / "qemu", []).code.samefile(share / "edk2-x86_64-code.fd")


def test_missing_files_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(
        HypervisorNotFound, match=r"(?s)looked for:\n    /no/code\n.*apt install ovmf.*firmware=\"bios\""
    ):
        find_ovmf(tmp_path / "qemu", [("/no/code", "/no/variables")])


def test_firmware_of_arm64_has_another_package(tmp_path: Path) -> None:
    with pytest.raises(
        HypervisorNotFound, match=r"(?s)for aarch64 is not found.*apt install qemu-efi-aarch64"
    ) as caught:
        find_ovmf(tmp_path / "qemu", [("/no/code", "/no/variables")], ARM64)
    # There is none to fall back on.
    assert "bios" not in str(caught.value)


def test_each_guest_keeps_its_own_variables(tmp_path: Path) -> None:
    folder = tmp_path / "guest"
    folder.mkdir()
    ovmf = find_ovmf(tmp_path / "qemu", [install(tmp_path / "code", tmp_path / "variables")])
    ovmf.create_variables(folder)
    assert (folder / VARIABLES).read_bytes() == b"variables"
    assert (folder / VARIABLES).stat().st_mode & 0o777 == 0o600
    (folder / VARIABLES).write_bytes(b"changed")
    ovmf.create_variables(folder)
    assert (folder / VARIABLES).read_bytes() == b"changed"
    assert ovmf.variables.read_bytes() == b"variables"
    assert str(folder / VARIABLES) in " ".join(ovmf.options(folder))
