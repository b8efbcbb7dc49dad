"""What vmnet gives and refuses, and how the stand-in says so; no guest is booted."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import becomes

from standin.commandline import Build
from standin.conftest import BUILDS, Run, Start
from standin.mac import Mac
from standin.running import BRIDGES, START_SECONDS

MESSAGE = "virtio_net: Could not create vmnet interface, permission denied or no entitlement?\n"
NIC = ["-s", "2,virtio-net"]
# The files of a kernel that is not there, which is noticed after all devices were made.
NO_KERNEL = ["-f", "kexec,/no/kernel,,"]
NO_KERNEL_WORDS = "kexec: failed to load kernel /no/kernel\n"
# An ordinary user, who may still read where this Python lies.
AS_USER = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]


def new_uuid() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def ask_mac(run: Run, behave: Callable[..., None]) -> Callable[..., str]:
    def ask(*words: str) -> str:
        behave()
        done = run("-M", *words, *NIC, *NO_KERNEL)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return ask


def test_mac_is_the_uuids(ask_mac: Callable[..., str]) -> None:
    one, other = new_uuid(), new_uuid()
    mac = ask_mac("-U", one)
    assert re.fullmatch(r"MAC: ([0-9a-f]{2}:){5}[0-9a-f]{2}\n", mac)
    octets = [int(octet, 16) for octet in mac.split()[1].split(":")]
    assert octets[0] & 3 == 2  # locally administered, and of one machine
    assert min(octets) < 16  # so it looks different where octets are not padded
    assert ask_mac("-U", one) == mac
    assert ask_mac("-U", one.upper()) == mac
    assert ask_mac("-U", other) != mac


def test_mac_is_another_each_time_without_uuid(ask_mac: Callable[..., str]) -> None:
    assert ask_mac() != ask_mac()


def test_no_text_is_the_nil_uuid(ask_mac: Callable[..., str]) -> None:
    assert ask_mac("-U", "") == ask_mac("-U", str(uuid.UUID(int=0)))


def test_malformed_uuid_is_a_silent_failure(run: Run) -> None:
    done = run("-U", "0fbb1f1a", *NIC, *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_malformed_uuid_without_interface_is_an_assertion(run: Run) -> None:
    done = run("-U", "0fbb1f1a", *BRIDGES, *NO_KERNEL)
    assert done.returncode == -signal.SIGABRT
    assert "Assertion failed: (error == 0), function main" in done.stderr


@pytest.mark.parametrize("build", BUILDS)
def test_only_root_gets_one(run: Run, build: Build) -> None:
    done = run(*NIC, *NO_KERNEL, build=build, before=AS_USER)
    said = (done.stdout, done.stderr)
    assert done.returncode == 1
    assert said == (("", MESSAGE) if build == "head" else (MESSAGE, ""))


def test_without_one_root_is_not_needed(run: Run) -> None:
    done = run(*BRIDGES, *NO_KERNEL, before=AS_USER)
    assert (done.returncode, done.stderr) == (-signal.SIGABRT, NO_KERNEL_WORDS)


def test_refused_uuid(mac: Mac, run: Run, behave: Callable[..., None]) -> None:
    refused, other = new_uuid(), new_uuid()
    behave(refused_uuids={refused.upper()})
    done = run("-U", refused, "-M", *NIC, *NO_KERNEL)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", MESSAGE)
    assert run("-U", other, "-M", *NIC, *NO_KERNEL).returncode == 0
    assert [(entry.uuid, entry.refused) for entry in mac.journal()[-2:]] == [(refused, True), (other, False)]


def test_second_interface_with_the_same_uuid_is_refused(run: Run, behave: Callable[..., None]) -> None:
    behave()
    two = [*NIC, "-s", "3,virtio-net"]
    done = run("-U", new_uuid(), *two, *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, MESSAGE)
    assert run(*two, *NO_KERNEL).stderr == NO_KERNEL_WORDS


def test_uuid_is_a_living_process_s(
    start: Start, run: Run, kernel: Callable[..., list[str]], behave: Callable[..., None]
) -> None:
    """Until it dies, and not a moment longer."""
    behave()
    query = ["-M", *NIC, *NO_KERNEL, "-U", new_uuid()]
    for _ in range(3):
        holder = start(*query[-2:], *NIC, *kernel())
        assert becomes(holder.has_qemu, START_SECONDS)
        busy = run(*query)
        assert (busy.returncode, busy.stdout, busy.stderr) == (1, "", MESSAGE)
        holder.process.kill()
        holder.wait()
        assert run(*query).returncode == 0


def test_interfaces_are_limited(
    start: Start, run: Run, kernel: Callable[..., list[str]], behave: Callable[..., None]
) -> None:
    behave(interfaces=1)
    holder = start(*NIC, *kernel())
    assert becomes(holder.has_qemu, START_SECONDS)
    assert run("-M", *NIC, *NO_KERNEL).stderr == MESSAGE
    behave(interfaces=2)
    assert run("-M", *NIC, *NO_KERNEL).returncode == 0


def test_interface_is_on_the_bridge_until_the_end(
    start: Start, kernel: Callable[..., list[str]], behave: Callable[..., None]
) -> None:
    behave()
    assert becomes(lambda: members() == [], 5)  # the one of the test before
    holder = start(*NIC, *kernel())
    assert becomes(lambda: members() == ["vmenet0"], START_SECONDS)
    holder.process.kill()
    holder.wait()
    assert becomes(lambda: not members(), START_SECONDS)


def members() -> list[str]:
    argv = ["ip", "-oneline", "link", "show", "master", "bridge100"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return [line.split(": ")[1] for line in done.stdout.splitlines()]


def test_setup_takes_its_time(mac: Mac, run: Run, behave: Callable[..., None]) -> None:
    behave(vmnet_seconds=0.3)
    assert run("-M", *NIC, *NO_KERNEL).returncode == 0
    entry = mac.journal()[-1]
    assert entry.end is not None
    assert entry.end - entry.begin >= 0.3
    assert not entry.refused
    assert not entry.overlapped


def test_setups_at_once_are_refused(mac: Mac, run: Run, behave: Callable[..., None]) -> None:
    behave(vmnet_seconds=0.6)
    before = len(mac.journal())
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(run("-M", *NIC, *NO_KERNEL).returncode)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0, 1]
    entries = mac.journal()[before:]
    assert sorted((entry.overlapped, entry.refused) for entry in entries) == [(False, False), (True, True)]


def test_hanging_setup(mac: Mac, start: Start, behave: Callable[..., None], tmp_path: Path) -> None:
    """The pidfile is there by then, and nothing else of a guest."""
    behave(vmnet_hangs=True)
    before = len(mac.journal())
    pidfile = tmp_path / "pid"
    hanging = start("-F", pidfile, *NIC, *NO_KERNEL)
    assert becomes(lambda: len(mac.journal()) > before, START_SECONDS)
    assert pidfile.read_text() == str(hanging.process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        hanging.wait(0.3)
    hanging.signal(signal.SIGTERM)
    assert hanging.wait() == -signal.SIGTERM
    assert pidfile.exists()
    (entry,) = mac.journal()[before:]
    assert (entry.pid, entry.end) == (hanging.process.pid, None)


def test_print_mac_makes_and_removes_the_pidfile(run: Run, behave: Callable[..., None], tmp_path: Path) -> None:
    behave()
    pidfile = tmp_path / "pid"
    pidfile.write_text("1")
    done = run("-M", "-F", pidfile, *NIC, *NO_KERNEL)
    assert (done.returncode, done.stderr) == (1, "Failed to set up pidfile\npidfile error -1\n")
    pidfile.unlink()
    assert run("-M", "-F", pidfile, *NIC, *NO_KERNEL).returncode == 0
    assert not pidfile.exists()


def test_print_mac_needs_the_disks_of_lower_slots(run: Run, behave: Callable[..., None]) -> None:
    behave()
    assert run("-M", *NIC, "-s", "1,ahci-hd,/no/disk", *NO_KERNEL).returncode == 1
    assert run("-M", *NIC, "-s", "3,ahci-hd,/no/disk", *NO_KERNEL).returncode == 0


def test_print_mac_without_interface_goes_on(run: Run) -> None:
    done = run("-M", *BRIDGES, *NO_KERNEL)
    assert (done.stdout, done.stderr) == ("", NO_KERNEL_WORDS)


def test_configuration_of_the_interface(run: Run, behave: Callable[..., None]) -> None:
    """xhyve looks at none."""
    behave()
    uuid_words = ["-U", new_uuid()]
    mac = run("-M", *uuid_words, *NIC, *NO_KERNEL).stdout
    for config in ("en0", "tap0,mac=2:0:0:0:0:1"):
        assert run("-M", *uuid_words, "-s", f"2,virtio-net,{config}", *NO_KERNEL).stdout == mac
    # hyperkit would read it, and the stand-in cannot.
    assert run("-M", "-s", "2,virtio-net,en0", *NO_KERNEL, build="hyperkit").returncode == 70
