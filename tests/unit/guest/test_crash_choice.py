"""Which states of a disk a crash may leave, and which it may not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from pytest_xhyve.formats.write_log import SECTOR, Entry, Flag, WriteLog
from pytest_xhyve.guest.crash_choice import ChosenState, CrashChooser
from pytest_xhyve.host.replay import Piece


def log_of(kinds: Sequence[str]) -> WriteLog:
    """A log of writes (w: a sector, W: 8 sectors, f: FUA), discards (d) and flushes (|), each at a place of its own."""
    entries, at = [], SECTOR
    for number, kind in enumerate(kinds):
        size = {"W": 8, "|": 0}.get(kind, 1) * SECTOR
        flags = {"f": Flag.FUA, "d": Flag.DISCARD, "|": Flag.FLUSH}.get(kind, Flag(0))
        entries.append(Entry(0 if kind == "|" else number * 16 * SECTOR, size, flags, at + SECTOR))
        at += SECTOR + (0 if kind == "d" else size)
    return WriteLog(Path("log"), tuple(entries))


logs = (
    st.lists(st.sampled_from("wwWWfd|"), min_size=1, max_size=30).filter(lambda kinds: set(kinds) != {"|"}).map(log_of)
)


def part_of(piece: Piece, entry: Entry) -> bool:
    inside = entry.offset <= piece.offset and piece.offset + piece.size <= entry.offset + entry.size
    data = None if entry.is_discard else entry.data + piece.offset - entry.offset
    return inside and piece.size > 0 and piece.data == data


@hypothesis.given(logs, st.integers(0, 5), st.integers(0, 100), st.sampled_from([SECTOR, 8 * SECTOR]))
def test_state_is_one_that_a_crash_may_leave(log: WriteLog, seed: int, number: int, sector: int) -> None:
    state = CrashChooser(log, frozenset(), seed, sector).choose(number)
    assert state.flushed == 0 or log.entries[state.flushed - 1].is_flush
    after = log.entries[state.flushed : state.point]
    assert after or not any(entry.size for entry in log.entries[state.flushed :]), "nothing was written since"
    assert not any(entry.is_flush for entry in after), "what was flushed is not lost"
    owners = [next(index for index, entry in enumerate(after) if part_of(piece, entry)) for piece in state.kept]
    assert owners == sorted(set(owners)), "the writes are in their order, and each is there once"
    for index, entry in enumerate(after):
        if entry.is_durable:
            assert Piece.whole(entry) in state.kept
        assert entry.size or index not in owners
    torn = sum(piece.size != after[index].size for piece, index in zip(state.kept, owners, strict=True))
    assert (state.lost, state.torn) == (len(after) - len(owners), torn)
    for piece in state.kept:
        assert piece.offset % SECTOR == 0
        assert piece.size % SECTOR == 0
        assert sector == SECTOR or piece.size in (SECTOR, 8 * SECTOR), "nothing is torn within a unit"


@hypothesis.given(logs, st.integers())
def test_choice_is_reproducible(log: WriteLog, seed: int) -> None:
    first, second = (CrashChooser(log, frozenset(), seed) for _ in range(2))
    states = [first.choose(number) for number in range(10)]
    assert [second.choose(number) for number in reversed(range(10))] == states[::-1]


def test_every_span_has_its_turn() -> None:
    log = log_of("w|||WW|w|")
    chooser = CrashChooser(log, frozenset(), 3)
    assert chooser.spans == 4
    for begin in (0, 4):
        assert {chooser.choose(begin + number).flushed for number in range(4)} == {0, 4, 7, 9}
    # Without the flush that is not the guest's, two spans are one.
    assert CrashChooser(log, frozenset({6}), 3).spans == 3


def test_every_kind_of_state_occurs() -> None:
    chooser = CrashChooser(log_of("WWW|"), frozenset(), 0)
    states = [state for number in range(400) if (state := chooser.choose(number)).flushed == 0]
    assert {state.point for state in states} == {1, 2, 3}
    assert {state.lost for state in states} == {0, 1, 2, 3}
    assert {state.torn for state in states} >= {0, 1, 2}

    def keeps(state: ChosenState, *numbers: int) -> bool:
        return [piece.offset // (16 * SECTOR) for piece in state.kept] == list(numbers)

    # The last overtakes the first two, and the other way round.
    assert any(keeps(state, 2) for state in states)
    assert any(keeps(state, 1, 2) for state in states)
    assert len({state.kept for state in states}) > 40


@pytest.mark.parametrize("kinds", ["", "|", "||"])
def test_nothing_was_written(kinds: str) -> None:
    with pytest.raises(ValueError, match="no write"):
        CrashChooser(log_of(kinds), frozenset(), 0)
