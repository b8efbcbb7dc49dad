"""The doctor's checks of any host: QEMU, its acceleration, the cache folder."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest
from mac_answers import assert_can_be_pasted, find

from pytest_xhyve.doctor import host
from pytest_xhyve.doctor.findings import Finding
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.model.errors import HypervisorNotFound, XhyveError


def test_qemu_is_missing(new_home: Home) -> None:
    def ask(cache: Path) -> HypervisorInfo:
        raise HypervisorNotFound("QEMU not found: looked for qemu\n  install it")

    (finding,) = host.check_qemu(new_home, "linux", ask)
    assert finding == Finding(
        "QEMU",
        "problem",
        "QEMU not found: looked for qemu",
        "sudo apt install qemu-system-x86 qemu-utils",
        frozenset({"qemu"}),
    )
    assert next(host.check_qemu(new_home, "darwin", ask)).fix == "brew install qemu"


@pytest.mark.parametrize("error", [XhyveError("broken"), OSError(8, "Exec format error")])
def test_qemu_is_broken(new_home: Home, error: Exception) -> None:
    def ask(cache: Path) -> HypervisorInfo:
        raise error

    (finding,) = host.check_qemu(new_home, "linux", ask)
    assert finding.level == "problem"
    assert str(error) in finding.detail


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_host_of_arm64_has_guests_of_arm64(
    new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64" if system == "darwin" else "aarch64")
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program, asked = tmp_path / "qemu-system-aarch64", tmp_path / "asked"
    program.write_text(
        f'#!/bin/sh\ncase $1 in --version) echo "QEMU emulator version 11.0.0"; exit;; esac\necho "$@" >>{asked}\n'
        "printf k\n"
    )
    program.chmod(0o755)
    (finding,) = host.check_qemu(None, system)
    if system == "darwin":
        assert finding == Finding("QEMU", "ok", "11.0.0, hvf (proved by a test program)")
        assert "-machine virt,accel=hvf -cpu host" in asked.read_text()
    else:
        # This host is not one of arm64, so whether it has KVM matters to nothing else.
        assert finding.detail.startswith("11.0.0, ")
        assert "guests are" not in finding.detail
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = host.check_qemu(None, system)
    assert finding.detail.startswith("QEMU not found: for guests of aarch64, looked for qemu-system-aarch64")
    assert finding.fix == ("brew install qemu" if system == "darwin" else "sudo apt install qemu-system-arm qemu-utils")


def test_host_of_arm64_without_kvm(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    info = HypervisorInfo("qemu", "9.0", "tcg", "no kvm: /dev/kvm does not exist", emulated=True)
    (finding,) = host.check_qemu(new_home, "linux", lambda _: info)
    assert "HYP mode not available" in finding.detail
    assert finding.fix == "sudo dmesg | grep -i kvm"
    assert_can_be_pasted(finding)


@pytest.mark.parametrize(
    ("platform", "reason", "fix"),
    [
        (
            "linux",
            "no kvm: this user may not open /dev/kvm; add the user to the group kvm",
            'usermod -aG kvm "$USER"',
        ),
        ("linux", "no kvm: /dev/kvm does not exist", "modprobe -a kvm_intel kvm_amd"),
        ("linux", "no kvm: the host advertises kvm, but a test program hung for 2 s", "dmesg"),
        ("linux", "no kvm: the processor of this host is riscv64, and guests are x86_64", "uname -m"),
        ("darwin", "no hvf: …", "sysctl kern.hv_support"),
    ],
)
def test_qemu_emulates(new_home: Home, platform: str, reason: str, fix: str) -> None:
    (finding,) = host.check_qemu(
        new_home, platform, lambda _: HypervisorInfo("qemu", "9.0", "tcg", reason, emulated=True)
    )
    assert finding.level == "warning"
    assert reason in finding.detail
    assert fix in finding.fix
    assert not finding.blocks
    assert_can_be_pasted(finding)


def test_remembered_acceleration_is_no_longer_true(new_home: Home) -> None:
    memory = new_home.folder("acceleration")

    def ask(cache: Path) -> HypervisorInfo:
        if cache == memory:
            return HypervisorInfo("qemu", "9.0", "tcg", "no kvm: …", emulated=True)
        return HypervisorInfo("qemu", "9.0", "kvm", "proved", emulated=False)

    fine, stale = host.check_qemu(new_home, "linux", ask)
    assert fine.level == "ok"
    assert stale.level == "warning"
    assert stale.fix == f"rm -r {memory}"


def test_folder_is_looked_at_and_not_made(new_home: Home, tmp_path: Path) -> None:
    findings = {finding.title: finding for finding in host.check_folder(new_home, "linux")}
    assert findings["cache folder"].level == "ok"
    assert findings["cloning"].level == "ok"
    assert not new_home.path.exists()
    assert list(tmp_path.iterdir()) == []


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = host.check_folder(Home(tmp_path / "file" / "home"), "linux")
    assert finding.level == "problem"
    assert finding.blocks == {"qemu", "vfkit", "xhyve"}
    assert_can_be_pasted(finding)


def test_folder_cannot_be_written() -> None:
    # Not even by root.
    findings = list(host.check_folder(Home(Path("/proc/1/cache")), "linux"))
    assert findings[0].level == "problem"
    assert "cannot write to" in findings[0].detail


def test_clones_by_copying_without_any_other_way(
    new_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cloning = find(host.check_folder(new_home, "linux"), "cloning")
    # Where the temporary folder shares extents, it needs no program.
    assert cloning.level == "warning" or "FICLONE" in cloning.detail


def test_little_space(new_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 30))
    finding = find(host.check_folder(new_home, "linux"), "disk space")
    assert finding.level == "warning"
    assert "1 GiB free" in finding.detail
    assert_can_be_pasted(finding)


def test_memory_of_another_user_is_no_finding_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "acceleration").mkdir()

    def ask(cache: Path) -> HypervisorInfo:
        if cache == tmp_path / "acceleration":
            raise PermissionError(13, "Permission denied")
        return HypervisorInfo("qemu", "7.2", "kvm", "proved", False)

    assert [finding.level for finding in host.check_qemu(Home(tmp_path), "linux", ask)] == ["ok"]


@pytest.mark.parametrize("system", ["nfs4", "nfs", "fuse.sshfs", "smbfs"])
def test_cache_folder_on_a_network_file_system(tmp_path: Path, system: str) -> None:
    (finding,) = host.check_locks(tmp_path, lambda _: system)
    assert finding.level == "warning"
    assert f"a network file system ({system})" in finding.detail
    assert_can_be_pasted(finding)


@pytest.mark.parametrize("system", ["ext4", "overlay", "apfs", ""])
def test_cache_folder_on_a_local_disk(tmp_path: Path, system: str) -> None:
    assert not list(host.check_locks(tmp_path, lambda _: system))
