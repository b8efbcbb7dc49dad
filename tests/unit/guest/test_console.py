from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from pytest_xhyve.guest.console import Console
from pytest_xhyve.host.bounded_log import HEAD_BYTES, TAIL_BYTES, shrink
from pytest_xhyve.model.errors import WaitTimeout


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def console(log: Path) -> Console:
    return Console(log, lambda _: None)


def add(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("said", "line", "panic"),
    [
        (
            "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n",
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
            True,
        ),
        (
            "[    9.1] BUG: kernel NULL pointer dereference, address: 0000000000000000\n",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            False,
        ),
        ("[    9.1] Oops: 0002 [#1] PREEMPT SMP PTI\n", "Oops: 0002 [#1] PREEMPT SMP PTI", False),
        (
            "[    3.0] general protection fault, probably for non-canonical address 0xdead: 0000 [#1]\n",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
            False,
        ),
        ("You are in emergency mode. After logging in, type\n", "You are in emergency mode", False),
        (
            "Cannot open access to console, the root account is locked.\n",
            "Cannot open access to console, the root account is locked",
            False,
        ),
        ("BusyBox v1.30.1\n\n(initramfs) ", "(initramfs)", False),
    ],
)
def test_trouble_is_found(log: Path, console: Console, said: str, line: str, panic: bool) -> None:
    watch = console.watch()
    add(log, b"[    0.0] Linux version 6.1\r\n" + said.encode())
    trouble = watch.find_error()
    assert trouble is not None
    assert (trouble.line, trouble.panic) == (line, panic)
    assert watch.find_error() is None


@pytest.mark.parametrize(
    "said",
    [
        "[    1.1] Kernel command line: panic=-1 oops=panic\n",
        "systemd[1]: emergency.service: Deactivated\n",
        "[  OK  ] Reached target Emergency-less target\n",
        "Oops, I did it again\n",
        "a (initramfs) image was loaded\n",
        "",
    ],
)
def test_no_trouble(log: Path, console: Console, said: str) -> None:
    watch = console.watch()
    add(log, said.encode())
    assert watch.find_error() is None


def test_trouble_in_two_pieces(log: Path, console: Console) -> None:
    watch = console.watch()
    add(log, b"line\n[ 1.0] Kernel pan")
    assert watch.find_error() is None
    add(log, b"ic - not syncing: Attempted to kill init!\n")
    trouble = watch.find_error()
    assert trouble is not None
    assert trouble.line.endswith("Attempted to kill init!")


def test_watch_looks_only_at_what_is_new(log: Path, console: Console) -> None:
    add(log, b"Kernel panic - not syncing: of an earlier start\n")
    assert console.watch().find_error() is None


def test_text_has_no_escapes_and_any_bytes(log: Path, console: Console) -> None:
    assert console.text == ""
    add(log, b"[\x1b[0;32m  OK  \x1b[0m] caf\xe9\r\n")
    assert console.text == "[  OK  ] caf\ufffd\n"


def test_tail(log: Path, console: Console) -> None:
    add(log, b"".join(b"line %d\n" % number for number in range(100)))
    assert console.tail(2) == "line 98\nline 99"


def test_wait_for(log: Path, console: Console) -> None:
    threading.Timer(0.1, add, [log, b"\r\nlogin: "]).start()
    start = time.monotonic()
    assert console.wait_for(r"^(\w+): $", timeout=10)[1] == "login"
    assert time.monotonic() - start < 5


def test_wait_for_says_what_came_instead(log: Path, console: Console) -> None:
    add(log, b"something else\n")
    with pytest.raises(WaitTimeout, match=r"'login:' is not .* within 0.1 s\n.*\n    something else"):
        console.wait_for("login:", timeout=0.1)


def test_wait_for_ends_with_the_guest(log: Path) -> None:
    """What the guest has said last is still found; what it has not, nobody waits for."""
    over: list[bool] = []
    console = Console(log, lambda _: None, lambda: bool(over))
    add(log, b"reboot: Power down\n")
    over.append(True)
    assert console.wait_for("Power down", timeout=30)
    start = time.monotonic()
    with pytest.raises(WaitTimeout, match="'login:' is not on the console, and will not come: the guest is off"):
        console.wait_for("login:", timeout=30)
    assert time.monotonic() - start < 5


def test_line_without_end_is_looked_at_once(log: Path, console: Console) -> None:
    """Each look reads what is new, and remembers little of the line."""
    watch = console.watch()
    start = time.process_time()
    for _ in range(200):
        add(log, b"x" * (1 << 16))
        assert watch.find_error() is None
    assert time.process_time() - start < 5
    add(log, b"Kernel panic - not syncing: at its end")
    trouble = watch.find_error()
    assert trouble is not None
    assert trouble.line == "Kernel panic - not syncing: at its end"


def test_trouble_in_the_midst_of_much(log: Path, console: Console) -> None:
    watch = console.watch()
    add(log, b"line\n" * 50_000 + b"Kernel panic - not syncing: here\n" + b"line\n" * 50_000 + b"Oops: 0002 [#1] SMP\n")
    trouble = watch.find_error()
    assert trouble is not None
    assert (trouble.line, trouble.panic) == ("Kernel panic - not syncing: here", True)


def test_long_log_keeps_head_and_tail(log: Path, console: Console) -> None:
    watch = console.watch()
    add(log, b"the first line\n")
    add(log, b"a line that is one of many\n" * (1 << 20))
    add(log, b"the last line\n")
    size = console.size
    assert watch.find_error() is None
    shrink(log)
    assert console.size == size
    assert log.stat().st_blocks * 512 < HEAD_BYTES + TAIL_BYTES + (1 << 20)
    text = console.text
    assert text.startswith("the first line\n")
    assert text.endswith("the last line\n")
    assert "\0" not in text
    assert f"[{size - HEAD_BYTES - TAIL_BYTES} bytes omitted]" in text
    assert len(text) < HEAD_BYTES + TAIL_BYTES + 100
    assert console.tail(1) == "the last line"


def test_wait_for_searches_what_is_new(log: Path, console: Console) -> None:
    add(log, b"early\n" + b"x" * (1 << 20))
    assert console.wait_for("early", timeout=5)
    threading.Timer(0.1, add, [log, b"\nthe needle\n"]).start()
    start = time.process_time()
    assert console.wait_for(r"^the needle$", timeout=10)
    assert time.process_time() - start < 1
    threading.Timer(0.2, add, [log, b"of two\n"]).start()
    assert console.wait_for(r"needle\nof two", timeout=10)
