"""Slots: numbers that fix a guest's UUID. One running guest holds a slot at a time.

A held slot is an open, locked file (flock(2)). The lock belongs to the open file, so the guardian and the hypervisor
inherit it with the descriptor. The kernel releases it when the last of these processes has ended, also after
``kill -9``. `filelock.FileLock` is not used because it does not pass on its descriptor.

All processes lock the same files, so the number of slots is also the limit of guests that run at the same time. Each
file contains what its guest costs and for whom it runs. That is valid only while the file is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from pytest_xhyve.host.locks import take_lock

RUN = "the run"
"""In the place of a test: the guest stays until its whole run ends, whatever its tests wait for."""

_NAMESPACE = UUID("7b1f3f8e-3c43-4b5c-9d2a-6f1d8a0c9e57")
_SUFFIX = ".lock"
_MOST_BYTES = 4096
# An older plugin writes nothing into a slot. Its guests have the default size, and most are restored.
_UNKNOWN_WEIGHT = 256 << 20


@dataclass(frozen=True, slots=True)
class Holder:
    """For whom a guest runs, for messages.

    Attributes:
        pid: the process.
        test: the test, class, module or session; empty if unknown.
    """

    pid: int
    test: str

    @classmethod
    def parse(cls, written: dict[str, Any]) -> Holder:
        """The holder in what `asdict` made of it, whatever that has become."""
        pid, test = written.get("pid"), written.get("test")
        return cls(pid if isinstance(pid, int) else 0, test if isinstance(test, str) else "")

    def __str__(self) -> str:
        return f"{self.test} (process {self.pid})" if self.test else f"process {self.pid}"


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """A slot that any process of this user holds.

    Attributes:
        number: of the slot.
        weight: bytes of the host's memory that its guest costs.
        holder: for whom the guest runs.
    """

    number: int
    weight: int
    holder: Holder


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that this process holds.

    Attributes:
        number: from 0.
        owner: the user id and the folder of the slots, as ``UID:FOLDER``; slots of two users never share a UUID.
        fd: the locked descriptor; a process that has it, or a duplicate, holds the slot.
        weight: bytes of the host's memory that its guest costs.
        waited: for how many seconds its test waited for it.
        is_reserved: whether that was before the test asked for the guest.
    """

    number: int
    owner: str
    fd: int
    weight: int = 0
    waited: float = 0.0
    is_reserved: bool = False

    def uuids(self) -> Iterator[UUID]:
        """UUIDs that no other slot has, the same ones on every run; the first is used where nothing speaks against it.

        Some hypervisors refuse some UUIDs, for good.
        """
        yield uuid5(_NAMESPACE, f"{self.owner}:{self.number}")
        for again in count(1):
            yield uuid5(_NAMESPACE, f"{self.owner}:{self.number}:{again}")


class Slots:
    """The slots in a folder.

    Only the holder of the queue's lock (`pytest_xhyve.fleet.queue.Queue.locked`) may call the methods: two processes
    could each take a part of what both need.

    Args:
        folder: contains this user's slots.
        limit: number of slots.
        memory: bytes of the host's memory that all guests may take together.
    """

    def __init__(self, folder: Path, limit: int, memory: int) -> None:
        self._folder = folder
        self._limit = limit
        self._memory = memory

    def take(self, weights: Sequence[int], holder: Holder) -> list[Slot] | None:
        """Hold the lowest free slots, one for each of *weights*; None, and no slot is held, if they do not fit."""
        found: list[tuple[int, int]] = []
        left = self._memory - sum(weights)
        known = self._numbers()
        new = (number for number in range(self._limit) if number not in known)
        with ExitStack() as held:
            for number in [*sorted(known), *new]:
                if number not in known and len(found) == len(weights):
                    break
                fd = try_lock(self._path(number))
                if fd is None:
                    left -= self._read(number).weight
                    continue
                if number < self._limit and len(found) < len(weights):
                    held.callback(os.close, fd)
                    found.append((number, fd))
                else:
                    os.close(fd)
            if left < 0 or len(found) < len(weights):
                return None
            # With the user and the folder, so that two users of one host never share a UUID.
            folder = self._folder.resolve()
            owner = f"{folder.stat().st_uid}:{folder}"
            for (_, fd), weight in zip(found, weights, strict=True):
                write_json(fd, {"weight": weight, **asdict(holder)})
            held.pop_all()
        return [Slot(number, owner, fd, weight) for (number, fd), weight in zip(found, weights, strict=True)]

    def grow(self, slot: Slot, weight: int) -> Slot | None:
        """Let the guest of *slot* cost *weight* bytes; None if that does not fit."""
        others = sum(held.weight for held in self.held() if held.number != slot.number)
        if others + weight > self._memory:
            return None
        write_json(slot.fd, {**read_json(self._path(slot.number)), "weight": weight})
        return replace(slot, weight=weight)

    def held(self) -> list[HeldSlot]:
        """The slots that any process of this user holds."""
        found = []
        for number in sorted(self._numbers()):
            fd = try_lock(self._path(number))
            if fd is None:
                found.append(self._read(number))
            else:
                os.close(fd)
        return found

    def _numbers(self) -> set[int]:
        """The slots that have ever been used."""
        names = (path.stem for path in self._folder.iterdir() if path.suffix == _SUFFIX)
        return {int(name) for name in names if name.isascii() and name.isdigit()}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03}{_SUFFIX}"

    def _read(self, number: int) -> HeldSlot:
        written = read_json(self._path(number))
        weight = written.get("weight")
        if not isinstance(weight, int) or weight < 0:
            weight = _UNKNOWN_WEIGHT
        return HeldSlot(number, weight, Holder.parse(written))


def try_lock(path: Path) -> int | None:
    """Create the file at *path* if it is missing, and lock it: its descriptor, or None if another process holds it."""
    fd = open_lock(path)
    try:
        is_taken = take_lock(fd)
    except OSError:
        os.close(fd)
        raise
    if is_taken:
        return fd
    os.close(fd)
    return None


def open_lock(path: Path) -> int:
    """Open the file at *path* to lock it, and create it if it is missing; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def write_json(fd: int, value: dict[str, Any]) -> None:
    """Replace the content of an open file by *value*."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(value).encode(), 0)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file at *path*; empty if there is none, whatever the file contains."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        # Not waiting for a writer, if the file is a named pipe.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            value = json.loads(os.read(fd, _MOST_BYTES))
        finally:
            os.close(fd)
        if isinstance(value, dict):
            return value
    return {}
