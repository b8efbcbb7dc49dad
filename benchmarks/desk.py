"""A process that takes slots and gives them back, without guests, and writes down when."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.fleet.admission import Admission
from pytest_xhyve.host.memory import Memory

GIB = 1 << 30
MEMORY = Memory(16 * GIB, 16 * GIB, "the benchmark")
"""Of which guests may take 12 GiB."""

SLOTS = "slots"


@dataclass(frozen=True, slots=True)
class Grant:
    """Slots that a process had, by the clock of the host, in seconds.

    Attributes:
        worker: the process.
        asked: when it asked for them.
        got: when it got them.
        gave: when it gave them back.
        slots: their numbers.
    """

    worker: int
    asked: float
    got: float
    gave: float
    slots: tuple[int, ...]

    @property
    def waited(self) -> float:
        """From asking to getting."""
        return self.got - self.asked


def read_grants(folder: Path) -> list[Grant]:
    """All grants of all processes, in the order of getting."""
    return sorted(
        (grant for path in folder.glob("*.log") for grant in _read(path)),
        key=lambda grant: grant.got,
    )


def _read(path: Path) -> Iterator[Grant]:
    for line in path.read_text().splitlines():
        asked, got, gave, *slots = line.split()
        yield Grant(int(path.stem), float(asked), float(got), float(gave), tuple(map(int, slots)))


class Proof:
    """Files beside the slots that show whether a slot was given twice, and how much memory is taken.

    They are opened before any slot: the kernel closes a dead process's descriptors from the lowest number on, so that
    they are free before the slot is.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._files = [os.open(folder / f"{number}", flags, 0o600) for number in range(limit)]

    def take(self, number: int, weight: int) -> None:
        """Note that the slot is taken for a guest that costs *weight* bytes.

        Raises:
            BlockingIOError: another process has it.
        """
        fcntl.flock(self._files[number], fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(self._files[number], f"{weight:20}".encode(), 0)

    def give(self, number: int) -> None:
        """Note that the slot is free."""
        fcntl.flock(self._files[number], fcntl.LOCK_UN)

    def memory(self) -> int:
        """Bytes of all guests whose slots are taken."""
        total = 0
        for fd in self._files:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                total += int(os.pread(fd, 20, 0) or 0)
            else:
                fcntl.flock(fd, fcntl.LOCK_UN)
        return total


def work(folder: Path, worker: int, limit: int, seconds: float, hold: tuple[float, float], most: int) -> None:
    """Take up to *most* slots at once, hold them for some time, and give them back, for *seconds*."""
    (folder / SLOTS).mkdir(exist_ok=True)
    proof = Proof(folder / "proof", limit)
    admission = Admission(folder / SLOTS, limit, 1.0, lambda _: None, MEMORY)
    chance = random.Random(worker)  # noqa: S311
    (folder / f"{worker}.ready").touch()
    while not (folder / "start").exists():
        time.sleep(0.01)
    end = time.monotonic() + seconds
    with (folder / f"{worker}.log").open("a", buffering=1) as log:
        while time.monotonic() < end:
            weights = [chance.choice((GIB, 4 * GIB)) if most > 1 else GIB // 4] * chance.randint(1, most)
            asked = time.monotonic()
            admission.reserve(weights, f"worker {worker}")
            with ExitStack() as stack:
                slots = [admission.acquire(stack, weight) for weight in weights]
                got = time.monotonic()
                for slot, weight in zip(slots, weights, strict=True):
                    proof.take(slot.number, weight)
                time.sleep(chance.uniform(*hold))
                gave = time.monotonic()
                for slot in slots:
                    proof.give(slot.number)
                    os.close(slot.fd)
            print(asked, got, gave, *(slot.number for slot in slots), file=log)


if __name__ == "__main__":
    _folder, _worker, _limit, _seconds, _least, _longest, _most = sys.argv[1:]
    work(Path(_folder), int(_worker), int(_limit), float(_seconds), (float(_least), float(_longest)), int(_most))
