"""A console on which a guest writes what it likes: each byte is read once, and no error is made up."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples

from pytest_xhyve.guest.boot_phases import BootPhases
from pytest_xhyve.guest.console import Console
from pytest_xhyve.model.text import printable

PANIC = b"Kernel panic - not syncing: it is over"
pieces = st.sampled_from(
    [PANIC, b"\r\n", b"\n", b"\x1b[2J", b"\x1b]0;title\x07", b"Oops: 0000 ", b"reboot: System halted", b"(initramfs) "]
) | st.binary(max_size=300)


def console_with(folder: str, chunks: Sequence[bytes]) -> tuple[Console, bool]:
    """A console that has shown *chunks* one after the other, and whether a panic was seen."""
    log = Path(folder, "console.log")
    console = Console(log, lambda _: None)
    phases = BootPhases("firmware", lambda *_: None)
    watch = console.watch(phases.feed)
    panic = False
    for chunk in chunks:
        with log.open("ab") as file:
            file.write(chunk)
        error = watch.find_error()
        panic |= error is not None and error.panic
    phases.stop()
    return console, panic


@examples(30)
@given(st.lists(pieces, max_size=6))
@example([b"Kernel panic - not syncing", b": it is over\r\n"])
@example([b"\xc3", b"\xa9\n"])
def test_any_output(chunks: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        console, panic = console_with(folder, chunks)
        written = b"".join(chunks)
        assert panic == (b"Kernel panic - not syncing: " in written)
        assert console.read() == written
        assert len(console.tail(5).splitlines()) <= len(console.tail().splitlines()) + 1
        for text in (console.text, console.tail(), console.around("panic")):
            assert "\x1b" not in printable(text)


@examples(10)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_message_is_found_wherever_it_is_cut(before: bytes, at: int) -> None:
    cut = at % len(PANIC)
    with tempfile.TemporaryDirectory() as folder:
        _, panic = console_with(folder, [before, b"\n" + PANIC[:cut], PANIC[cut:] + b"\n"])
    assert panic
