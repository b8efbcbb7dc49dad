"""Choose states in which a disk may be found after a crash.

A disk may complete the writes between two flushes in any order, and lose any of them when the power fails. It may also
write only some sectors of a write. What was flushed, and what was written with FUA, is there. The number of such states
is far too large to try all of them, so a seed chooses some.

The same model is used by CrashMonkey (Mohan et al., OSDI 2018) and ALICE (Pillai et al., OSDI 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from pytest_xhyve.formats.write_log import SECTOR, Entry, WriteLog
from pytest_xhyve.host.replay import Piece


@dataclass(frozen=True, slots=True)
class ChosenState:
    """A state of a disk after a crash, as the part of a log that is on the disk.

    Attributes:
        number: the state's number in the sample; with the seed and the log, it determines everything else.
        flushed: the number of the log's entries that are flushed, and so on the disk.
        point: the number of entries that were complete when the power failed.
        kept: what is there of the other writes, in their order.
        lost: how many of the other writes are missing.
        torn: how many of the other writes are there in part.
    """

    number: int
    flushed: int
    point: int
    kept: tuple[Piece, ...]
    lost: int
    torn: int


class CrashChooser:
    """Chooses states from one log.

    Args:
        log: the record of a disk.
        own_flushes: the indexes of flushes that do not count.
        seed: chooses the states.
        sector: the number of bytes that the disk writes as a whole or not at all.

    Raises:
        ValueError: the log contains no write.
    """

    def __init__(self, log: WriteLog, own_flushes: frozenset[int], seed: int, sector: int = SECTOR) -> None:
        self._entries = log.entries
        self._seed = seed
        self._sector = sector
        flushes = [index for index in log.flushes() if index not in own_flushes]
        bounds = [0, *(index + 1 for index in flushes), len(log.entries)]
        # A span between two flushes: its first entry, and the one after its last.
        *spans, last = pairwise(bounds)
        spans = [(begin, end) for begin, end in spans if any(entry.size for entry in log.entries[begin:end])]
        # The last one counts in any case: the power may fail when all is done.
        spans.append(last)
        if not any(entry.size for entry in log.entries):
            raise ValueError("the record contains no write")
        # Each span has its turn before one has its second.
        Random(f"{seed}").shuffle(spans)  # noqa: S311
        self._spans = spans

    @property
    def spans(self) -> int:
        """The number of spans between two flushes in which something was written, and the one after the last flush."""
        return len(self._spans)

    def choose(self, number: int) -> ChosenState:
        """The state *number*, from 0."""
        random = Random(f"{self._seed}/{number}")  # noqa: S311
        begin, end = self._spans[number % len(self._spans)]
        written = [index for index in range(begin, end) if self._entries[index].size]
        if not written:
            return ChosenState(number, begin, begin, (), 0, 0)
        # Often just before the flush is complete, as most writes can be lost then.
        last = written[-1] if random.random() < 0.5 else random.choice(written)
        open_writes = [index for index in written if index <= last and not self._entries[index].is_durable]
        kept = dict.fromkeys(open_writes, True)
        kept.update(random.choice(_FATES)(random, open_writes))
        tears = random.random() < 0.5
        pieces, torn = [], 0
        for index in written:
            entry = self._entries[index]
            if index > last or not kept.get(index, True):
                continue
            piece = Piece.whole(entry)
            if tears and index in kept and random.random() < 0.5:
                piece = self._tear(random, piece)
                torn += piece.size != entry.size
            pieces.append(piece)
        lost = sum(not is_kept for is_kept in kept.values())
        return ChosenState(number, begin, last + 1, tuple(pieces), lost, torn)

    def flushed(self, state: ChosenState) -> Sequence[Entry]:
        """The entries that are flushed in *state*."""
        return self._entries[: state.flushed]

    def _tear(self, random: Random, piece: Piece) -> Piece:
        """Some sectors of *piece* in a row."""
        first, end = piece.offset // self._sector, -(-(piece.offset + piece.size) // self._sector)
        begin = random.randrange(first, end)
        stop = random.randint(begin + 1, end)
        offset = max(begin * self._sector, piece.offset)
        size = min(stop * self._sector, piece.offset + piece.size) - offset
        return Piece(offset, size, None if piece.data is None else piece.data + offset - piece.offset)


def _keep_all(_random: Random, writes: Sequence[int]) -> dict[int, bool]:
    return dict.fromkeys(writes, True)


def _lose_all(_random: Random, writes: Sequence[int]) -> dict[int, bool]:
    return dict.fromkeys(writes, False)


def _keep_one(random: Random, writes: Sequence[int]) -> dict[int, bool]:
    """One write overtakes all others."""
    return dict.fromkeys(writes, False) | (dict.fromkeys([random.choice(writes)], True) if writes else {})


def _lose_one(random: Random, writes: Sequence[int]) -> dict[int, bool]:
    """All others overtake one write."""
    return dict.fromkeys(writes, True) | (dict.fromkeys([random.choice(writes)], False) if writes else {})


def _keep_some(random: Random, writes: Sequence[int]) -> dict[int, bool]:
    return {index: random.random() < 0.5 for index in writes}


# A program that forgot to sync between two writes shows it in the states of `_keep_one` and `_lose_one`.
_FATES = (_keep_all, _lose_all, _keep_one, _keep_one, _lose_one, _lose_one, _keep_some, _keep_some)
