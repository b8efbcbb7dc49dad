"""The disks of a running guest, which a test can break and mend."""

from __future__ import annotations

import errno as error_numbers
from collections.abc import Callable

from pytest_xhyve.guest.fault_notes import FaultNotes
from pytest_xhyve.hypervisors.block import BlockLayer, DiskError, Request
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.values import format_size, parse_positive_int, parse_size, short_repr

_SECTOR = 512


class GuestDisk:
    """A disk of a guest; ``guest.disks[0]`` is ``/dev/vda``.

    A fault lasts until `heal`, or until the guest is switched off or reset.

    Args:
        number: the disk's number, from 0.
        block: returns what changes the disks of the running machine, or raises an error.
        notes: gets the faults for the report.
    """

    def __init__(self, number: int, block: Callable[[], BlockLayer], notes: FaultNotes) -> None:
        self._number = number
        self._block = block
        self._notes = notes

    def __repr__(self) -> str:
        return f"<GuestDisk {self._number}>"

    @property
    def _errors_place(self) -> str:
        return f"errors of disk {self._number}"

    @property
    def _speed_place(self) -> str:
        return f"speed of disk {self._number}"

    @property
    def _plug_place(self) -> str:
        return f"disk {self._number}"

    @property
    def size(self) -> int:
        """The disk's size in bytes.

        Raises:
            XhyveError: the guest is off.
        """
        return self._block().disk_size(self._number)

    def fail(
        self,
        *,
        reads: bool = True,
        writes: bool = True,
        flushes: bool = False,
        sector: int | None = None,
        errno: str = "EIO",
    ) -> None:
        """Let requests to the disk fail from now on, until `heal`; a second call replaces the first.

        What the guest's page cache has does not come from the disk, so reads of it do not fail.

        Args:
            reads: whether reads fail.
            writes: whether writes and discards fail.
            flushes: whether flushes fail, so that ``fsync`` does, although the data is written.
            sector: the one sector of 512 bytes that is bad; None for the whole disk. Flushes have no sector.
            errno: the name of the error. The guest's driver reports each one as ``EIO``, as virtio has one error only.

        Raises:
            ConfigurationError: an argument is invalid, or the sector is beyond the disk's end.
            NotSupported: only QEMU can do that.
            XhyveError: the guest is off.
        """
        flags: dict[Request, bool] = {"read": reads, "write": writes, "flush": flushes}
        requests = [request for request, fails in flags.items() if fails]
        if not requests:
            raise ConfigurationError("nothing would fail; heal() ends a fault")
        number = _error_number(errno)
        block = self._block()
        if sector is not None:
            _check_sector(sector, block.disk_size(self._number))
        block.fail(self._number, DiskError(requests, sector, number))
        where = "" if sector is None else f" at sector {sector}"
        self._notes.note(self._errors_place, f"{', '.join(requests)} requests fail{where} ({errno})")

    def slow(self, *, bytes_per_second: int | str | None = None, iops: int | None = None) -> None:
        """Limit the disk's speed from now on, until `heal`; a second call replaces the first.

        Args:
            bytes_per_second: the limit of reads and writes together, such as ``"1M"``; None for no limit.
            iops: the limit of requests in a second; None for no limit.

        Raises:
            ConfigurationError: an argument is invalid.
            NotSupported: only QEMU can do that.
            XhyveError: the guest is off.
        """
        rate = None if bytes_per_second is None else parse_size(bytes_per_second)
        count = None if iops is None else parse_positive_int(iops)
        if rate is None and count is None:
            raise ConfigurationError("slow() needs bytes_per_second= or iops=; heal() ends a fault")
        self._block().slow_down(self._number, rate, count)
        limits = [f"{format_size(rate)}/s"] if rate is not None else []
        limits += [f"{count} requests/s"] if count is not None else []
        self._notes.note(self._speed_place, f"limited to {', '.join(limits)}")

    def unplug(self) -> None:
        """Pull the disk out of the running guest, which sees it vanish; return once it has.

        The data stays, and `plug` brings it back. A disk that the guest uses is not unmounted: its requests fail. A
        disk that is switched off or reset is plugged in again. `fail` and `slow` hold for a disk that is plugged in
        later, too.

        Raises:
            NotSupported: it is the first disk, or only QEMU can do that.
            XhyveError: the guest is off, or it does not release the disk; the disk is unplugged already.
        """
        block = self._block()
        if self._number in block.unplugged:
            raise XhyveError(f"disk {self._number} is unplugged; plug() plugs it in")
        block.unplug(self._number)
        self._notes.note(self._plug_place, "unplugged")

    def plug(self) -> None:
        """Plug the disk in again. The guest finds it within a second, by its old name if nothing uses that still.

        Raises:
            XhyveError: the guest is off, or the disk is plugged in.
        """
        block = self._block()
        if self._number not in block.unplugged:
            raise XhyveError(f"disk {self._number} is plugged in; unplug() pulls it out")
        block.plug(self._number)
        self._notes.note(self._plug_place, None)

    def heal(self) -> None:
        """End all errors and limits of the disk. A file system that gave up needs to be mounted again.

        Raises:
            XhyveError: the guest is off.
        """
        block = self._block()
        block.fail(self._number, None)
        block.slow_down(self._number, None, None)
        self._notes.note(self._errors_place, None)
        self._notes.note(self._speed_place, None)


def _error_number(name: str) -> int:
    number = getattr(error_numbers, name, None) if isinstance(name, str) else None
    if number is None or not name.startswith("E"):
        raise ConfigurationError(f"{short_repr(name)} is not the name of an error, such as EIO (errno(3))")
    if number == error_numbers.ENOSPC:
        raise ConfigurationError(
            "a disk cannot fail with ENOSPC: that is the error of a full file system, and QEMU pauses the machine\n"
            "  fill the file system in the guest, or use a small disk: @pytest.mark.xhyve(disks=['8M'])"
        )
    return int(number)


def _check_sector(sector: int, size: int) -> None:
    if isinstance(sector, bool) or not isinstance(sector, int) or not 0 <= sector < size // _SECTOR:
        raise ConfigurationError(
            f"{short_repr(sector)} is not a sector of this disk, which has sectors 0 to {size // _SECTOR - 1}"
        )
