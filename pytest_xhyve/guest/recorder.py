"""Record what a guest writes to its disks, and make the disks that a power cut leaves.

A hypervisor that is killed leaves every write that has reached it: the host's page cache has them. A machine that
loses its power keeps only what its disks have flushed. So the recorder freezes each disk under an overlay, lets the
hypervisor log each write and flush, and after a cut writes the log up to the last flush over the frozen disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pytest_xhyve.formats.qcow2_overlay import COARSE, Qcow2Overlay
from pytest_xhyve.formats.write_log import WriteLog, WriteLogError, count_flushed, read_write_log
from pytest_xhyve.host.replay import Piece, replay
from pytest_xhyve.hypervisors.block import BlockLayer
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Disk, Machine

MAX_SIZE = "4G"
"""The limit for the record of one disk, unless the test names another one."""


@dataclass(frozen=True, slots=True)
class RecordedDisk:
    """A disk whose writes are recorded.

    Attributes:
        base: the disk as it was when the record began; nothing writes to it any more.
        overlay: what the guest writes to.
        log: each write and flush since then.
        size: the disk's size in bytes.
        own_flushes: returns the indexes of the log's flushes for which the hypervisor asked.
    """

    base: Disk
    overlay: Disk
    log: Path
    size: int
    own_flushes: Callable[[], frozenset[int]]

    def read(self) -> WriteLog:
        """The log as far as it is complete.

        Raises:
            XhyveError: the log is damaged.
        """
        try:
            return read_write_log(self.log, self.size)
        except WriteLogError as error:
            raise XhyveError(
                f"the record {self.log} is damaged: {error}\n"
                "  QEMU before 8.2.1 and 7.2.9 damages it if a guest writes zeros and data at once: use a newer one"
            ) from error


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that a test has marked.

    Attributes:
        label: the test's name for it.
        flushed: how many entries of each disk's log were flushed then.
    """

    label: str
    flushed: tuple[int, ...]


class WriteRecorder:
    """The records of one guest's disks.

    Args:
        name: the guest's name.
        folder: the guest's folder, which gets a folder for each record.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._made = 0
        self._folders: list[Path] = []
        self._is_pinned = False
        self.max_size: int | None = None
        """The limit for the record of one disk, in bytes; None if no record was requested."""
        self.disks: Sequence[RecordedDisk] = ()
        """The disks of the running machine; empty if they are not recorded."""
        self.marks: list[Mark] = []
        """The marks that were set since the record began."""

    def begin(self, block: BlockLayer, machine: Machine) -> Machine:
        """Record all writes of the running *machine* from now on.

        Returns:
            the machine with the disks that it writes to from now on.

        Raises:
            NotSupported: the hypervisor cannot do that.
            OSError: a file cannot be written.
        """
        assert self.max_size is not None
        folder = self._folder / f"writes-{self._made}"
        self._made += 1
        folder.mkdir(mode=0o700)
        self._folders.append(folder)
        disks = []
        for number, base in enumerate(machine.disks):
            size = block.disk_size(number)
            overlay = Disk(folder / f"disk{number}.qcow2", "qcow2")
            with Qcow2Overlay(overlay.path, size, base.path.resolve(), base.format, COARSE):
                pass
            log = folder / f"disk{number}.log"
            with log.open("xb") as file:
                file.truncate(self.max_size)
            disks.append(RecordedDisk(base, overlay, log, size, partial(block.own_flushes, number)))
        # Once all files are there: if the host's disk is full, the guest goes on with the disks that it has.
        for number, disk in enumerate(disks):
            block.record(number, disk.overlay.path, disk.log)
        self.disks = disks
        self.marks = []
        self._is_pinned = False
        return replace(machine, disks=tuple(disk.overlay for disk in disks))

    def mark(self, label: str) -> None:
        """Mark this moment."""
        self.marks.append(Mark(label, tuple(count_flushed(disk.log) for disk in self.disks)))

    def pin(self) -> None:
        """Keep all files so far for good, and go on: a snapshot of the guest uses them."""
        self._folders.clear()
        self._is_pinned = True

    def keep_disks(self) -> None:
        """Keep all files for good: a saved state of the guest uses them."""
        self.disks = ()
        self._folders.clear()

    def discard(self) -> None:
        """Remove all files since the last `keep_disks`: the guest, which is off, gets another machine."""
        self.disks = ()
        for folder in self._folders:
            shutil.rmtree(folder)
        self._folders.clear()

    def cut(self, machine: Machine) -> Machine:
        """Take back all writes that were not flushed, after the hypervisor was killed.

        Returns:
            the machine with disks that contain what was flushed.

        Raises:
            XhyveError: a log is damaged.
            OSError: a file cannot be written.
        """
        disks = []
        for disk in self.disks:
            log, own = disk.read(), disk.own_flushes()
            path = disk.overlay.path.with_name(f"cut-{disk.overlay.path.name}")
            with Qcow2Overlay(path, disk.size, disk.base.path.resolve(), disk.base.format) as target:
                replay(disk.log, _durable(log, own), target)
            disks.append(Disk(path, "qcow2"))
        for disk in () if self._is_pinned else self.disks:
            # The guest may be cut many times.
            disk.log.unlink()
            disk.overlay.path.unlink()
        self.disks = ()
        return replace(machine, disks=tuple(disks))


def _durable(log: WriteLog, own_flushes: frozenset[int]) -> list[Piece]:
    """What the disk keeps: everything up to the last flush, and what was written with FUA after it."""
    flushed = log.last_flush(own_flushes)
    return [
        Piece.whole(entry)
        for index, entry in enumerate(log.entries)
        if entry.size and (index < flushed or entry.is_durable)
    ]


def not_recorded(name: str, consequence: str) -> XhyveError:
    """The error for a guest whose writes are not recorded."""
    return XhyveError(
        f"the writes of guest {name} are not recorded, so {consequence}\n"
        "  mark the test with @pytest.mark.xhyve(power_cuts=True), or call guest.record_writes() first"
    )
