"""The interface of a hypervisor that can change the disks of a running machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Request = Literal["read", "write", "flush"]
"""What a machine asks of a disk; a discard is a write."""


@dataclass(frozen=True, slots=True)
class DiskError:
    """An error of a disk.

    Attributes:
        requests: the requests that fail.
        sector: the sector of 512 bytes that is bad; None for the whole disk.
        number: the error's number (errno(3)).
    """

    requests: Sequence[Request]
    sector: int | None
    number: int


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

    def freeze(self, disk: int, overlay: Path) -> None:
        """Send all writes to *overlay* from now on, which is as for `record`; the disk's file stays as it is.

        Raises:
            NotSupported: this version of the hypervisor cannot do that.
        """

    def fail(self, disk: int, error: DiskError | None) -> None:
        """Let requests to the disk fail with *error*; None ends that. It replaces an earlier one."""

    def slow_down(self, disk: int, bytes_per_second: int | None, iops: int | None) -> None:
        """Limit how much the machine reads and writes in a second; None for no limit.

        Args:
            disk: the disk.
            bytes_per_second: the limit of bytes.
            iops: the limit of requests.
        """

    @property
    def unplugged(self) -> frozenset[int]:
        """The disks that are not plugged in now."""

    def unplug(self, disk: int) -> None:
        """Take the disk out of the machine, and wait until the guest has released it.

        Raises:
            NotSupported: the disk cannot be taken out.
            XhyveError: the guest does not release it.
        """

    def plug(self, disk: int) -> None:
        """Put the disk, which was taken out, back; the guest finds it a little later.

        Raises:
            NotSupported: the hypervisor cannot do that.
        """

    def own_flushes(self, disk: int) -> frozenset[int]:
        """The indexes of entries in the disk's log that, if they are flushes, the guest did not ask for."""
