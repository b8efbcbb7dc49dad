"""An update of a system with two slots: one slot runs, and the other one gets the new version.

``python3 update.py DEVICE install VERSION`` installs a version, and ends once the next boot takes it.
``python3 update.py DEVICE boot`` prints the version that a boot loader would start.

Two boot records are written in turn. The boot loader takes the valid one with the higher number.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from typing import NamedTuple

BLOCK = 4096
IMAGE = 64 * BLOCK
STEPS = ("image written", "image synced", "record written", "record synced")
"""What an update does, in this order."""


class BootError(Exception):
    """Nothing on the device boots."""


class Record(NamedTuple):
    """A boot record: the *number*-th update wrote *version* to *slot*."""

    number: int
    slot: int
    version: int
    sha256: str


class Device:
    """A device or file with two boot records and two slots.

    Args:
        path: the device.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)

    def close(self) -> None:
        """Close the device."""
        os.close(self._fd)

    def boot(self) -> int:
        """The version that the boot loader starts; 0 if none was ever installed.

        Raises:
            BootError: the slot that it has to take is not whole.
        """
        record = self._last_record()
        if record is None:
            return 0
        image = os.pread(self._fd, IMAGE, self._place_of_slot(record.slot))
        if hashlib.sha256(image).hexdigest() != record.sha256:
            raise BootError(f"slot {record.slot} is not the version {record.version} that it should be")
        return record.version

    def install(self, version: int, steps: tuple[str, ...] = STEPS) -> None:
        """Install *version* into the slot that does not run; *steps* are done in their order, and may be fewer."""
        last = self._last_record()
        number = 1 if last is None else last.number + 1
        slot = number % 2
        image = (b"version %08d\n" % version * IMAGE)[:IMAGE]
        record = Record(number, slot, version, hashlib.sha256(image).hexdigest())
        for step in steps:
            if step == "image written":
                os.pwrite(self._fd, image, self._place_of_slot(slot))
            elif step == "record written":
                # The other record stays, and so does the slot that it names.
                content = json.dumps(record).encode()
                os.pwrite(self._fd, (b"%d " % zlib.crc32(content) + content).ljust(BLOCK, b"\0"), slot * BLOCK)
            else:
                os.fsync(self._fd)

    def _last_record(self) -> Record | None:
        return max(filter(None, map(self._read_record, range(2))), default=None)

    def _read_record(self, which: int) -> Record | None:
        checksum, _, content = os.pread(self._fd, BLOCK, which * BLOCK).rstrip(b"\0").partition(b" ")
        if not content or not checksum.isdigit() or int(checksum) != zlib.crc32(content):
            return None
        return Record(*json.loads(content))

    def _place_of_slot(self, slot: int) -> int:
        return 2 * BLOCK + slot * IMAGE


if __name__ == "__main__":
    path, verb, *rest = sys.argv[1:]
    device = Device(path)
    if verb == "boot":
        sys.stdout.write(f"{device.boot()}\n")
    else:
        version, *steps = rest
        device.install(int(version), tuple(steps) or STEPS)
    device.close()
