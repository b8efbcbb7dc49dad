"""What the programs of a guest print, when they lie: each function that reads it raises no error but its own."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_xhyve.formats.partition_growth import CannotExtend
from pytest_xhyve.guest import growth, listeners
from pytest_xhyve.guest.agent import AgentError
from pytest_xhyve.guest.sync import parse_listing
from pytest_xhyve.guest.waits import SystemState
from pytest_xhyve.model.architecture import X86_64
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.text import printable

HUGE = "9" * 5000
outputs = st.binary().map(os.fsdecode) | st.text()
# What int() takes, or takes only of some lengths, and what merely looks like a number.
numbers = st.integers().map(str) | st.sampled_from([HUGE, "²", "٣", "0x10", "1_000", "", "-0", " 1"])


@given(st.lists(st.tuples(numbers, numbers, numbers, outputs).map(" ".join) | outputs))
@example(["81a4 ² 0 ./x"])
@example([f"81a4 {HUGE} 0 ./x"])
@example(["-1 0 0 ./x"])
def test_any_listing(items: list[str]) -> None:
    for mode, size, _ in parse_listing(items).values():
        assert 0 <= mode < 1 << 32
        assert abs(size) < 1 << 64


def test_listing_of_stat() -> None:
    lines = ["81a4 6 1700000000 ./a b", "a1ff 1 -5 ./old", "it's ./c"]
    assert parse_listing(lines) == {"a b": (0x81A4, 6, 1700000000), "old": (0xA1FF, 1, -5)}


@given(outputs, st.integers(0, 1 << 16))
@example("  0: 0100007F:0016 00000000:0000 0A ", 22)
@example(f"  {HUGE}: 0100007F:0016 00000000:0000 0A ", 22)
def test_any_table_of_sockets(table: str, port: int) -> None:
    address = listeners.find_loopback_address(table, port)
    assert address is None or address == "::1" or address.startswith("127.")


@given(outputs)
def test_any_state_of_systemd(output: str) -> None:
    text = str(SystemState.parse(output))
    assert len(text) < 3000
    assert text == printable(text)


def blocks(device: str, **keys: str) -> str:
    return "".join(f"/sys/class/block/{device}/{key}:{value}\n" for key, value in keys.items())


@st.composite
def roots(draw: st.DrawFn) -> str:
    """What a guest may show of its root file system, with any numbers."""
    kind = draw(st.sampled_from(["ext4", "xfs", "btrfs"]))
    name = draw(st.sampled_from(["vda", "vda1"]))
    some = {key: draw(numbers | st.integers(0, 1 << 22).map(str)) for key in ("size", "start", "partition")}
    block = draw(numbers | st.just("4096"))
    size = draw(numbers | st.just("4194304"))
    devices = blocks("vda", dev="254:0", size=size) + (blocks(name, dev="254:1", **some) if name != "vda" else "")
    number = "254:0" if name == "vda" else "254:1"
    return f"24 1 {number} / / rw - {kind} /dev/{name} rw\n\n{block}\n{devices}"


@given(roots() | outputs, st.lists(outputs | st.just("\0" * 17408) | st.just("XFSB") | st.just("\0" * 56), max_size=8))
def test_any_root_that_shall_grow(root: str, answers: list[str]) -> None:
    left = iter([root, *answers])
    with contextlib.suppress(growth._Unknown, CannotExtend, XhyveError, AgentError):
        growth._grow(lambda _line, _data: next(left, ""), X86_64)


@pytest.mark.parametrize("partition", ["256", HUGE, str(1 << 40)])
def test_partition_that_no_disk_has(partition: str) -> None:
    devices = blocks("vda", size="4194304") + blocks("vda1", dev="254:1", partition=partition, start="2048", size="9")
    with pytest.raises(growth._Unknown, match="size of /dev/vda1"):
        growth._parse_root(f"24 1 254:1 / / rw - ext4 /dev/vda1 rw\n\n4096\n{devices}")
