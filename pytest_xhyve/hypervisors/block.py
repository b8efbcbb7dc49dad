"""The interface of a hypervisor that can change the disks of a running machine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class BlockLayer(Protocol):
    """What lies between a running machine and the files of its disks. Disks are numbered from 0."""

    def disk_size(self, disk: int) -> int:
        """The size of the disk in bytes, as the guest sees it."""

    def record(self, disk: int, overlay: Path, log: Path) -> None:
        """Send all writes to *overlay* from now on, and append each write and flush to *log*.

        Args:
            disk: the disk; its file is not written to any more.
            overlay: a qcow2 file without data, whose backing file is the disk's file.
            log: a file of zeros; what it has no room for stops the machine. `pytest_xhyve.formats.write_log` describes
                what is written to it.

        Raises:
            NotSupported: this version of the hypervisor cannot do that.
        """

    def own_flushes(self, disk: int) -> frozenset[int]:
        """The indexes of entries in the disk's log that, if they are flushes, the guest did not ask for."""
