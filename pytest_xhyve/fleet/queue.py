"""The queue of tests that wait for guests, over all processes of a user: first come, first served.

Each waiting test has a ticket, a file that its process keeps locked (flock(2)). So a ticket is valid exactly as long
as its process lives. The files' numbers are their order, and no clock of the host matters.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_xhyve.fleet.slots import Holder, open_lock, read_json, try_lock, write_json
from pytest_xhyve.host.locks import take_lock, wait_for_lock
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import NoFreeSlot

# A process holds the lock for less than a millisecond, but a debugger or SIGSTOP may stop it there.
_LOCK_SECONDS = 30.0
_LOCK_RETRY_SECONDS = 0.001

# A waiting process touches its ticket this often.
_TOUCH_SECONDS = 0.5

STOPPED_SECONDS = 5.0
"""After this time without a sign of its process, a test that waits is passed over until there is one."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A test that waits.

    Attributes:
        number: of its ticket; a lower one asked earlier.
        holder: the test.
        guests: number of guests that it waits for.
        slots: the slots that it holds meanwhile.
        is_stopped: whether its process has not run for some seconds.
    """

    number: int
    holder: Holder
    guests: int
    slots: frozenset[int]
    is_stopped: bool


class Ticket:
    """The place in the queue of a test of this process."""

    def __init__(self, number: int, path: Path, fd: int, holder: Holder, guests: int) -> None:
        self.number = number
        self._path = path
        self._fd = fd
        self._holder = holder
        self._guests = guests
        self._slots: list[int] | None = None
        self._touched = monotonic()

    def update(self, slots: Iterable[int]) -> None:
        """Show the others that this process runs, and that the test holds *slots*."""
        held = sorted(slots)
        if held != self._slots:
            self._slots = held
            write_json(self._fd, {**asdict(self._holder), "guests": self._guests, "slots": held})
        elif monotonic() - self._touched > _TOUCH_SECONDS:
            os.utime(self._fd)
        else:
            return
        self._touched = monotonic()

    def close(self) -> None:
        """Leave the queue."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        _release(self._fd)


class Queue:
    """The queue in a folder, as one waiting thread sees it.

    Args:
        folder: contains the tickets; it is created if it is missing.
        stopped_after: after how many seconds without a sign of its process a test is passed over.
    """

    def __init__(self, folder: Path, stopped_after: float = STOPPED_SECONDS) -> None:
        self._folder = folder
        self._stopped_after = stopped_after
        # When each other ticket was last touched, and since when this thread knows that. The others' clock does not
        # matter: only a change does.
        self._seen: dict[int, tuple[int, float]] = {}

    @contextmanager
    def locked(self, timeout: float = _LOCK_SECONDS) -> Iterator[None]:
        """In the block, no other process or thread takes a slot, or joins the queue.

        Raises:
            NoFreeSlot: another process holds the lock, and does not release it.
        """
        # The folder above may have been removed and made again.
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / "lock"
        fd = open_lock(path)
        try:
            if not wait_for_lock(fd, fcntl.LOCK_EX, timeout, _LOCK_RETRY_SECONDS):
                raise NoFreeSlot(
                    f"another process holds {path}, and has not released it for {timeout:.0f} s\n"
                    f"  find a stopped process of yours, and continue or end it: fuser -v {path}; ps -o pid,stat,args"
                )
            yield
        finally:
            _release(fd)

    def join(self, holder: Holder, guests: int) -> Ticket:
        """Join the queue as the last one; the caller holds the lock, and closes the ticket."""
        number = max(self._numbers(), default=-1) + 1
        path = self._path(number)
        fd = try_lock(path)
        assert fd is not None, f"{path} is new"
        return Ticket(number, path, fd, holder, guests)

    def waiting(self) -> list[Waiting]:
        """The tests that wait, in their order; the caller holds the lock."""
        found = []
        for number in sorted(self._numbers()):
            touched = self._touched(number)
            if touched is None:
                with contextlib.suppress(OSError):
                    # Its process has died.
                    self._path(number).unlink()
            else:
                found.append(self._read(number, touched))
        self._seen = {waiting.number: self._seen[waiting.number] for waiting in found}
        return found

    def still_waits(self, number: int) -> bool:
        """Whether the test with ticket *number* still waits, and its process runs."""
        touched = self._touched(number)
        return touched is not None and not self._is_stopped(number, touched)

    def _read(self, number: int, touched: int) -> Waiting:
        about = read_json(self._path(number))
        guests, slots = about.get("guests"), about.get("slots")
        return Waiting(
            number,
            Holder.parse(about),
            guests if isinstance(guests, int) else 1,
            frozenset(slot for slot in slots if isinstance(slot, int)) if isinstance(slots, list) else frozenset(),
            self._is_stopped(number, touched),
        )

    def _is_stopped(self, number: int, touched: int) -> bool:
        now = monotonic()
        before, since = self._seen.setdefault(number, (touched, now))
        if touched != before:
            self._seen[number] = (touched, now)
            return False
        return now - since > self._stopped_after

    def _touched(self, number: int) -> int | None:
        """When the ticket *number* was last touched; None if its process has left the queue or died."""
        try:
            # Not waiting for a writer, if the file is a named pipe.
            fd = os.open(self._path(number), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return None if take_lock(fd, fcntl.LOCK_SH) else os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isascii() and path.name.isdigit()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}"


def _release(fd: int) -> None:
    # A child of os.fork() may have a duplicate of the descriptor, and closing this one would not release the lock.
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
