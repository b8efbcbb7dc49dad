"""Several guests at once: how long until all have answered, and what they take of the host's memory and disk."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import product
from benchmarks.measure import Clock
from pytest_xhyve.fleet.request import ForegroundRequest
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.model.settings import MAX_GUESTS
from pytest_xhyve.model.spec import GuestSpec


@dataclass(frozen=True, slots=True)
class Crowd:
    """Guests that were alive together.

    Attributes:
        seconds: from the request to the last one's first output.
        memory: bytes that their hypervisors took of the host's memory, after that.
    """

    seconds: float
    memory: int


def start(image: str, accel: str, way: str, count: int, *, at_once: bool) -> Crowd:
    """Start *count* guests of a fleet of their own, run a command in each, and take them away again.

    Args:
        image: the image.
        accel: QEMU's acceleration.
        way: ``cold`` or ``warm``.
        count: how many.
        at_once: whether all are asked for at once, or each after the one before has answered.
    """
    # No guest waits for another one's end, be it of another process.
    with product.fleet_of(accel, way, MAX_GUESTS) as fleet, ExitStack() as stack:

        def one(_: int) -> Guest:
            guest = stack.enter_context(fleet.start(ForegroundRequest(GuestSpec(image=image))))
            assert guest.run("echo ready").stdout == "ready\n"
            return guest

        clock = Clock()
        if at_once:
            with ThreadPoolExecutor(count) as threads:
                guests = list(threads.map(one, range(count)))
        else:
            guests = [one(number) for number in range(count)]
        seconds = clock.lap()
        return Crowd(seconds, sum(memory_of(product.hypervisor_of(guest)) for guest in guests))


def memory_of(pid: int) -> int:
    """Bytes of a process, where what several share is shared out among them (PSS, proc(5))."""
    found = re.search(r"^Pss: +(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def memory_of_one_more(image: str, accel: str, way: str, count: int) -> float:
    """Bytes that a guest costs beside others like it, as *count* of them and a single one tell."""
    one, several = (start(image, accel, way, number, at_once=False).memory for number in (1, count))
    return (several - one) / (count - 1)


def disk_of_one(image: str, accel: str) -> int:
    """Bytes that all files of a warm guest take on the disk, before its first command."""
    with product.fleet_of(accel, "warm") as fleet, fleet.start(ForegroundRequest(GuestSpec(image=image))) as guest:
        return sum(_bytes_on_disk(path) for path in product.folder_of(guest).rglob("*"))


def _bytes_on_disk(path: Path) -> int:
    return path.lstat().st_blocks * 512
