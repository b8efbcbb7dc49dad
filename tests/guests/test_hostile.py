"""A guest whose root is the attacker and knows the plugin: its programs lie, stall and send without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from warm import fleet_of

from pytest_xhyve import Guest, WaitTimeout, XhyveError
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.journal import read_journal
from pytest_xhyve.host.home import Home
from pytest_xhyve.hypervisors.qemu import machine
from pytest_xhyve.model.spec import GuestSpec

# For how many seconds a guest of these tests may be silent; a copy may stand still for twice as long.
STEP = 1.5
PORT = 4321


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with fleet_of(Home.of_user(), []) as fleet, fleet.start(ForegroundRequest(GuestSpec())) as guest:
        power = guest._own_power
        power.timeouts = power.login.timeouts = replace(power.timeouts, step=STEP)
        yield guest


@contextmanager
def lying(guest: Guest, word: str, answer: str) -> Iterator[None]:
    """Let the guest run *answer* in the place of each line that contains *word*."""
    shell = guest.run("readlink -f /bin/sh").stdout.strip()
    honest = f"ln -sf {shell} /bin/sh"
    script = f'#!/bin/busybox sh\ncase "$*" in *{word!r}*) {answer} ;; esac\nexec /bin/busybox sh "$@"\n'
    guest.put(script.encode(), "/tmp/liar", mode=0o755)
    guest.run("ln -sf /tmp/liar /bin/sh")
    try:
        yield
    finally:
        guest.run(honest)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


@pytest.mark.thorough
def test_bytes_now_and_then_do_not_keep_a_copy_for_ever(guest: Guest, tmp_path: Path) -> None:
    with (
        lying(guest, "exec tar", "while printf x; printf y >&2; do sleep 0.1; done"),
        within(15),
        pytest.raises(XhyveError, match=r"cannot get /etc/passwd: .* sent or took hardly any data for 3 s"),
    ):
        guest.get("/etc/passwd", tmp_path)
    (tmp_path / "much").write_bytes(bytes(4 << 20))
    with (
        lying(guest, "tar -C", "while dd bs=1 count=1 of=/dev/null 2>/dev/null; do sleep 0.1; done"),
        within(15),
        pytest.raises(XhyveError, match=r"cannot put .* hardly any data for 3 s"),
    ):
        guest.put(tmp_path / "much", "/tmp/much")
    assert guest.is_healthy()


def test_names_that_were_not_asked_for(guest: Guest, tmp_path: Path) -> None:
    for name in ("conftest.py", ".bashrc", "x.log/../conftest.py", "a.log\\n.py"):
        with (
            lying(guest, "for p in", f"printf '/l/a.log\\0/l/{name}\\0'; exit"),
            pytest.raises(XhyveError, match=r"the guest names '/l/.*', which does not match"),
        ):
            guest.get("/l/*.log", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_numbers_that_are_none(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    guest.run("mkdir /tmp/synced")
    for line in ("81a4 ² 0 ./file", f"81a4 {'9' * 5000} 0 ./file", "-1 1 1 ./file", "\\377 \\0 \\n"):
        with lying(guest, "find . !", f"printf '{line}\\0'; exit"):
            assert guest.sync(tmp_path, "/tmp/synced") == 1
    rows = " 0: 0100007F:10E1 00000000:0000 0A \\n" + " 1: " + "F" * 100_000
    with lying(guest, "/proc/net/tcp", f"printf '{rows}'; exit"):
        with pytest.raises(XhyveError, match=r"served on the guest's 127\.0\.0\.1 only, and"):
            guest.forward(PORT)
        guest.wait_for_port(PORT, timeout=5)
    with lying(guest, "/proc/net/tcp", "yes '²: ²:² 0A'"), within(30), pytest.raises(WaitTimeout):
        guest.wait_for_port(PORT + 1, timeout=3)


def test_journal_that_is_longer_than_asked_for(guest: Guest) -> None:
    with lying(guest, "journalctl", "head -c 50000 /dev/zero | tr '\\0' x; exit"):
        assert read_journal(guest, None, max_bytes=1000, timeout=30) == 1000 * "x"


def test_exit_codes_that_no_program_has(guest: Guest) -> None:
    for code in ("255", "-1", "4294967295"):
        assert 0 <= guest.run(f"exit {code}", check=False).returncode < 256
    assert guest.run("kill -9 $$", check=False).returncode == -1
    assert guest.is_healthy()


def test_console_that_takes_nothing(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TYPE_SECONDS", 1.0)
    guest.pause()
    try:
        # More than the host's buffers hold.
        with within(15), pytest.raises(XhyveError, match="does not take what is typed on its console"):
            guest.console.send("x" * (8 << 20))
    finally:
        guest.resume()
    assert guest.run("echo alive").stdout == "alive\n"
