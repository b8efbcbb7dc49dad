"""Guests that stop answering: each wait ends soon, and its error states the cause.

A guest that is paused is as silent as one whose network is down, and can be made to answer again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
from warm import fleet_of

from pytest_xhyve import BootFailed, BootTimeout, CommandFailed, CommandTimeout, ConnectionFailed, Guest
from pytest_xhyve.fleet.fleet import Fleet
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.spec import GuestSpec

# For how many seconds a guest of these tests may be silent.
STEP = 3.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(Home.of_user(), []) as fleet:
        yield fleet


@contextmanager
def impatient(fleet: Fleet) -> Iterator[Guest]:
    with fleet.start(ForegroundRequest(GuestSpec())) as guest:
        # Not by the factor of the limits: the boot of a busy machine takes its time.
        power = guest._own_power
        power.timeouts = power.login.timeouts = replace(power.timeouts, step=STEP, shutdown=2.0)
        yield guest


@pytest.fixture(scope="module")
def guest(fleet: Fleet) -> Iterator[Guest]:
    """A guest that answers again after each test."""
    with impatient(fleet) as guest:
        yield guest


@pytest.fixture
def doomed(fleet: Fleet) -> Iterator[Guest]:
    """A guest of a test's own."""
    with impatient(fleet) as guest:
        yield guest


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@contextmanager
def paused(guest: Guest) -> Iterator[None]:
    guest.run("true")
    guest.pause()
    try:
        yield
    finally:
        guest.resume()


def test_silent_guest(guest: Guest, tmp_path: Path) -> None:
    with paused(guest):
        # The limit of the test is the limit.
        with within(20), pytest.raises(CommandTimeout, match=r"within 3\.5 s") as caught:
            guest.run("true", timeout=3.5)
        assert "did not answer over SSH for the last" in "\n".join(caught.value.__notes__)
        with within(20), pytest.raises(ConnectionFailed, match=r"cannot get /etc/passwd: .* silent for \d+ s"):
            guest.get("/etc/passwd", tmp_path)
    assert guest.run("echo again").stdout == "again\n"


def test_guest_that_becomes_silent_while_it_takes_a_file(guest: Guest, tmp_path: Path) -> None:
    """Its buffers are full then, so that paramiko itself waits."""
    with (tmp_path / "file").open("wb") as file:
        # Without holes, which are not sent.
        os.posix_fallocate(file.fileno(), 0, 500 << 20)
    guest.run("true")
    pausing = Timer(0.3, guest.pause)
    pausing.start()
    try:
        with within(30), pytest.raises(ConnectionFailed, match=r"cannot put .*file to /tmp/file: .* silent"):
            guest.put(tmp_path / "file", "/tmp/file")
    finally:
        pausing.join()
        guest.resume()


def test_busy_command_is_no_silent_guest_and_a_written_panic_is_none(guest: Guest) -> None:
    with pytest.raises(CommandFailed):
        guest.run(f"echo '[ 1.0] Kernel panic - not syncing: not really' >/dev/console; sleep {STEP + 1.5}; false")
    assert guest.is_healthy()


def test_console_without_end(guest: Guest) -> None:
    """Also on one line: looking at it costs little."""
    guest.run("(yes | tr -d '\\n' >/dev/console) >/dev/null 2>&1 &")
    start = time.process_time()
    guest.run("sleep 1; killall yes")
    assert time.process_time() - start < 1
    assert guest.is_healthy()


def test_halted_guest(doomed: Guest) -> None:
    for line in ("halt -f", "true"):
        with within(20), pytest.raises(BootFailed, match=r"its kernel has halted .'reboot: System halted"):
            doomed.run(line, check=False)


@pytest.mark.thorough
def test_guest_that_restarts(doomed: Guest) -> None:
    before = doomed.run(f"cat {BOOT_ID}").stdout.strip()
    doomed.run("(sleep 0.3; reboot -f) >/dev/null 2>&1 &")
    doomed.wait_for(f"! grep -q {before} {BOOT_ID}", timeout=100)

    before = doomed.run(f"cat {BOOT_ID}").stdout.strip()
    with within(60), doomed.expect_reboot():
        with pytest.raises(ConnectionFailed, match=r"restarts .'reboot: Restarting system|was lost") as caught:
            doomed.run("reboot -f; sleep 1000")
        raise caught.value
    assert doomed.run(f"cat {BOOT_ID}").stdout.strip() != before
    with pytest.raises(BootTimeout, match=r"did not (reboot|answer on SSH .*) within 1 s"), doomed.expect_reboot(1):
        doomed.run("true")


@pytest.mark.long
def test_guest_that_cannot_be_reached_any_more(doomed: Guest, tmp_path: Path) -> None:
    """Not only the command that finds it so has a limit: the later ones do not wait as long as for a boot."""
    doomed.run("(sleep 0.5; ip link set eth0 down) >/dev/null 2>&1 &")
    with within(20), pytest.raises(ConnectionFailed, match=r"was silent for \d+ s"):
        doomed.run("sleep 100")
    verbs: list[Callable[[], object]] = [lambda: doomed.run("true"), lambda: doomed.get("/etc/passwd", tmp_path)]
    for verb in verbs:
        with within(15), pytest.raises(BootTimeout, match=r"did not answer on SSH .* within 3 s"):
            verb()
    with within(15), pytest.raises(BootTimeout, match=r"within 0\.5 s"):
        doomed.run("true", timeout=0.5)


def test_refused_login_is_not_tried_again(doomed: Guest) -> None:
    doomed.run("rm -r ~/.ssh")
    doomed.ssh.close()
    for _ in range(2):
        with within(10), pytest.raises(ConnectionFailed, match="may not log in"):
            doomed.run("true")


def test_guest_that_cannot_shut_down(doomed: Guest) -> None:
    """Its programs are gone; without them, the power button has no effect."""
    doomed.run("mv $(readlink -f /bin/busybox) /tmp/")
    with within(30), pytest.raises(BootTimeout, match=r"within 2 s .`poweroff` failed with .*power button .*kill\(\)"):
        doomed.shutdown()
