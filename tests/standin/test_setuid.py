"""A stand-in with the set-user-ID bit, started by an ordinary user."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_xhyve.model.image import Image
from standin.commandline import Build
from standin.conftest import BUILDS
from standin.mac import Mac
from standin.running import QUICK, Running
from standin.test_vmnet import MESSAGE, NIC, NO_KERNEL, NO_KERNEL_WORDS

USER = 65534
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]


@pytest.fixture(scope="module")
def folder(mac: Mac) -> Path:
    """One that everybody can reach; it goes with the namespaces."""
    folder = Path("/var/tmp/setuid")
    folder.mkdir()
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def programs(mac: Mac, folder: Path) -> dict[Build, Path]:
    return {build: mac.install(folder / build / "xhyve", build, setuid=True) for build in BUILDS}


@pytest.fixture
def run(programs: dict[Build, Path], behave: Callable[..., None]) -> Callable[..., subprocess.CompletedProcess[str]]:
    behave()

    def run(*words: str | Path, build: Build = "head") -> subprocess.CompletedProcess[str]:
        argv = [*AS_USER, programs[build], *words]
        return subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def secret(folder: Path) -> Path:
    """A disk that only root can open."""
    path = folder / "disk.img"
    path.write_bytes(bytes(4096))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("build", BUILDS)
def test_gets_an_interface(run: Callable[..., subprocess.CompletedProcess[str]], build: Build) -> None:
    done = run(*NIC, *NO_KERNEL, build=build)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGABRT, "", NO_KERNEL_WORDS)


def test_is_root_until_then(run: Callable[..., subprocess.CompletedProcess[str]], secret: Path) -> None:
    """Only slots before the interface's may open what only root may."""
    early = run(*NIC, "-s", f"1,ahci-hd,{secret}", *NO_KERNEL)
    assert early.stderr == NO_KERNEL_WORDS
    late = run(*NIC, "-s", f"3,ahci-hd,{secret}", *NO_KERNEL)
    assert (late.returncode, late.stderr) == (1, "Could not open backing file: Permission denied\n")


@pytest.mark.parametrize("build", ["v0.2.0", "hyperkit"])
def test_others_stay_root(run: Callable[..., subprocess.CompletedProcess[str]], secret: Path, build: Build) -> None:
    assert run(*NIC, "-s", f"3,ahci-hd,{secret}", *NO_KERNEL, build=build).stderr == NO_KERNEL_WORDS


def test_second_interface_fails(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Even with another UUID: the first took the privilege away."""
    two = [*NIC, "-s", "3,virtio-net", *NO_KERNEL]
    assert run(*two).stderr == MESSAGE
    assert run(*two, build="hyperkit").stderr == NO_KERNEL_WORDS


def test_cannot_remove_its_pidfile(run: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    pidfile = folder / "pid"
    done = run("-F", pidfile, *NIC, "-s", "3,ahci-hd,/no/disk", *NO_KERNEL)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "Failed to remove pidfile")
    assert pidfile.exists()


def test_boots_as_the_user(tiny: Image, folder: Path, programs: dict[Build, Path], behave: Callable[..., None]) -> None:
    behave()
    kernel = folder / "vmlinuz"
    assert tiny.kernel is not None
    kernel.write_bytes(tiny.kernel.read_bytes())
    words = [
        *NIC,
        "-s",
        "31,lpc",
        "-l",
        "com1,stdio",
        "-m",
        "128M",
        "-f",
        f"kexec,{kernel},,{QUICK} console=ttyS0 panic=-1",
    ]
    with Running([*AS_USER, programs["head"], *words]) as running:
        running.console.wait_for("Kernel panic")
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}\n" in status
        assert running.wait() == 0
