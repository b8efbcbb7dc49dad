"""What happens before a guest runs, in which order, and what is left when it goes wrong."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import becomes

from pytest_xhyve.model.image import Image
from standin.commandline import Build
from standin.conftest import BUILDS, Run, Start
from standin.mac import Mac
from standin.running import BRIDGES, START_SECONDS
from standin.test_vmnet import NIC, NO_KERNEL, NO_KERNEL_WORDS

PIDFILE_EXISTS = "Failed to set up pidfile\npidfile error -1\n"
NO_FILE = "Could not open backing file: No such file or directory\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.img"
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "pid"


def test_bad_command_line_ends_before_all(run: Run, behave: Callable[..., None], pidfile: Path) -> None:
    behave(hv_missing=True)
    pidfile.touch()
    done = run("-F", pidfile, "-m", "1.5G", *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (64, "", "xhyve: invalid memsize '1.5G'\n")
    done = run("-F", pidfile)
    assert done.returncode == 1
    assert done.stderr.startswith("Usage: xhyve")


def test_old_build_has_no_pidfile(run: Run, pidfile: Path) -> None:
    done = run("-F", pidfile, *NO_KERNEL, build="v0.2.0")
    assert done.returncode == 1
    assert done.stderr.startswith("xhyve: illegal option -- F\nUsage:")


@pytest.mark.parametrize("build", BUILDS)
def test_machine_comes_first(run: Run, behave: Callable[..., None], build: Build) -> None:
    behave(hv_missing=True)
    done = run("-c", "0", *NO_KERNEL, build=build)
    assert done.returncode == 1
    assert done.stdout == "vmx_init: processor not supported by Hypervisor.framework\n"
    assert done.stderr == "Unable to create VM (-85377018)\n"


@pytest.mark.parametrize(
    ("cpus", "words"),
    [("0", "Invalid guest vCPUs (0)\n"), ("17", "17 vCPUs requested but only 16 available\n")],
)
def test_then_its_cpus(run: Run, pidfile: Path, cpus: str, words: str) -> None:
    pidfile.touch()
    done = run("-c", cpus, "-F", pidfile, *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)


def test_hyperkit_has_more_cpus(run: Run) -> None:
    done = run("-c", "65", *NO_KERNEL, build="hyperkit")
    assert (done.returncode, done.stderr) == (1, "65 vCPUs requested but only 64 available\n")


def test_then_the_pidfile(run: Run, pidfile: Path) -> None:
    """Whose it is makes no difference, and it stays as it was."""
    pidfile.write_text("no process")
    done = run("-F", pidfile, "-s", "1,ahci-hd,/no/disk", *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", PIDFILE_EXISTS)
    assert pidfile.read_text() == "no process"
    assert run("-F", pidfile / "no", *NO_KERNEL).stderr == PIDFILE_EXISTS


def test_then_the_devices_by_their_slots(run: Run, pidfile: Path, small: Path) -> None:
    """And when one cannot be made, the pidfile goes again."""
    late, early = ["-s", "5,ahci-hd,/no/disk"], ["-s", "4:1,ahci-hd"]
    done = run("-F", pidfile, *late, *early, *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, "pci_ahci: backing device required\n")
    assert not pidfile.exists()
    done = run(*late, "-s", f"4:1,ahci-hd,{small}", *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, NO_FILE)


def test_then_the_debug_port(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        done = run("-g", str(taken.getsockname()[1]), "-U", "no UUID", *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, "bind: Address already in use\n")


def test_then_the_uuid(run: Run) -> None:
    done = run("-U", "no UUID", *NO_KERNEL)
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.startswith("Assertion failed: (error == 0)")


def test_last_the_kernel(mac: Mac, run: Run, behave: Callable[..., None], pidfile: Path) -> None:
    """An interface was taken by then, and the pidfile is left behind."""
    behave()
    before = len(mac.journal())
    done = run("-F", pidfile, *BRIDGES, *NIC, "-l", "com1,stdio", *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGABRT, "", NO_KERNEL_WORDS)
    assert re.fullmatch(r"\d+", pidfile.read_text())
    assert pidfile.stat().st_mode & 0o777 == 0o644
    assert [entry.refused for entry in mac.journal()[before:]] == [False]


def test_what_cannot_be_simulated_is_told_from_what_xhyve_does(run: Run) -> None:
    done = run("-s", "4,virtio-tap,tap0", *NO_KERNEL)
    assert done.returncode == 70
    assert "stand-in" in done.stderr


def patched(kernel: bytes, offset: int, form: str, value: int) -> bytes:
    changed = bytearray(kernel)
    struct.pack_into(form, changed, offset, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda kernel: kernel[: 1 << 20], id="cut off"),
        pytest.param(lambda kernel: patched(kernel, 0x1F1, "<B", 0), id="no set-up sectors"),
        pytest.param(lambda kernel: patched(kernel, 0x1FE, "<H", 0), id="no boot flag"),
        pytest.param(lambda kernel: patched(kernel, 0x202, "<I", 0), id="no header"),
        pytest.param(lambda kernel: patched(kernel, 0x206, "<H", 0x209), id="old protocol"),
        pytest.param(lambda kernel: patched(kernel, 0x211, "<B", 0), id="not loaded high"),
    ],
)
def test_kernels_that_are_refused(run: Run, tiny: Image, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    kernel = tmp_path / "vmlinuz"
    assert tiny.kernel is not None
    kernel.write_bytes(change(tiny.kernel.read_bytes()))
    done = run("-f", f"kexec,{kernel},,")
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, f"kexec: failed to load kernel {kernel}\n")


def test_kernel_needs_room_and_a_short_command_line(run: Run, tiny: Image) -> None:
    words = f"kexec: failed to load kernel {tiny.kernel}\n"
    assert run("-m", "16M", "-f", f"kexec,{tiny.kernel},,").stderr == words
    assert run("-f", f"kexec,{tiny.kernel},,{'x' * 4096}").stderr == words


@pytest.mark.parametrize("name", ["none", "empty"])
def test_initrd_that_is_refused(run: Run, tiny: Image, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    initrd = tmp_path / name
    done = run("-f", f"kexec,{tiny.kernel},{initrd},")
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, f"kexec: failed to load initrd {initrd}\n")


def test_disk_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """virtio-blk says it twice."""
    missing = tmp_path / "no.img"
    assert run("-s", f"4,virtio-blk,{missing}", *NO_KERNEL).stderr == NO_FILE * 2
    assert run("-s", f"4,ahci-cd,{missing}", *NO_KERNEL).stderr == NO_FILE
    done = run("-s", "4,virtio-blk", *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "virtio-block: backing device required\n", "")


def test_disk_that_is_no_file(run: Run) -> None:
    done = run("-s", "4,ahci-hd,/dev/null", *NO_KERNEL)
    assert done.returncode == 1
    assert done.stderr.startswith("xhyve: raw device support unimplemented")


@pytest.mark.parametrize("build", BUILDS)
def test_disk_in_use(run: Run, small: Path, build: Build) -> None:
    """Only hyperkit minds; two readers are well even there."""
    words = ["-s", f"4,ahci-hd,{small}", *NO_KERNEL]
    refused = "Could not lock backing file: Resource temporarily unavailable\n"
    with small.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        done = run(*words, build=build)
        assert done.stderr == (refused if build == "hyperkit" else NO_KERNEL_WORDS)
        words[1] += ",ro"
        assert run(*words, build=build).stderr == NO_KERNEL_WORDS


def test_ports_without_bridge_are_ignored(run: Run) -> None:
    assert run("-l", "com1,/no/tty", *NO_KERNEL).stderr == NO_KERNEL_WORDS


def test_standard_input_that_is_closed(run: Run, programs: dict[Build, Path]) -> None:
    argv = ["sh", "-c", 'exec "$@" <&-', "sh", str(programs["head"]), *BRIDGES, "-l", "com1,stdio", *NO_KERNEL]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "Unable to initialize backend 'stdio' for LPC device COM1\n")


def test_one_lpc_bridge_on_the_first_bus(run: Run) -> None:
    assert run("-s", "30,lpc", *BRIDGES, *NO_KERNEL).stderr == "Only one LPC bridge is allowed.\n"
    assert run("-s", "1:3:0,lpc", *NO_KERNEL).stderr == "LPC bridge can be present only on bus 0.\n"


def test_standard_input_does_not_wait_from_its_slot_on(
    mac: Mac, start: Start, behave: Callable[..., None], tmp_path: Path
) -> None:
    """Which is after that of the interface, in most command lines; and so it stays."""
    behave(vmnet_seconds=1)
    ours, theirs = os.openpty()
    try:
        words = ["-l", "com1,stdio", *NIC, *NO_KERNEL]
        for slot, early in (("1", True), ("31", False)):
            before = len(mac.journal())
            running = start("-s", f"{slot},lpc", *words, stdin=theirs)
            assert becomes(lambda: len(mac.journal()) == before + 1, START_SECONDS)  # noqa: B023
            assert os.get_blocking(theirs) is not early
            assert running.wait() == -signal.SIGABRT
            assert os.get_blocking(theirs) is False
            os.set_blocking(theirs, True)
    finally:
        os.close(ours)
        os.close(theirs)
