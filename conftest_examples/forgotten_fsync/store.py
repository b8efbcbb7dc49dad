"""A store of numbers with a write-ahead log, on a block device: a program as somebody may write it.

``python3 store.py DEVICE KEY VALUE`` stores a number, and ends once it is safe. A page of the device contains the
number of each key. A power cut may tear a page, so the log gets each change first; `Store.recover` repeats the log.
"""

from __future__ import annotations

import os
import sys
import zlib

BLOCK = 4096
PAGES = 16
LOG = 64


class Store:
    """A store on the device or file at *path*.

    Args:
        path: the device.
        forgetful: leave out one fsync, which is the mistake to be found.
    """

    def __init__(self, path: str, *, forgetful: bool = False) -> None:
        self._device = os.open(path, os.O_RDWR)
        self._forgetful = forgetful

    def close(self) -> None:
        """Close the device."""
        os.close(self._device)

    def put(self, key: int, value: int) -> None:
        """Store *value*; when this returns, no power cut loses it."""
        number = len(self._records())
        record = f"{key} {value}".encode()
        self._write(PAGES + number, b"%d %s" % (zlib.crc32(record), record))
        if not self._forgetful:
            os.fsync(self._device)
        self._write_page(key, value)

    def get(self, key: int) -> int:
        """The value of *key*, or 0; the whole page has to be from one `put`."""
        page = os.pread(self._device, BLOCK, key * BLOCK)
        parts = {page[at : at + 16] for at in range(0, BLOCK, 16)}
        assert len(parts) == 1, f"the page of key {key} is torn: {parts}"
        return int(parts.pop().strip(b"\0 ") or 0)

    def recover(self) -> None:
        """Repeat what is in the log, after a crash."""
        for record in self._records():
            self._write_page(*map(int, record.split()))
        os.fsync(self._device)

    def _records(self) -> list[bytes]:
        """The log, up to the first record that is not whole."""
        records: list[bytes] = []
        for number in range(LOG):
            content = os.pread(self._device, BLOCK, (PAGES + number) * BLOCK).strip(b"\0")
            checksum, _, record = content.partition(b" ")
            if not record or int(checksum) != zlib.crc32(record):
                break
            records.append(record)
        return records

    def _write_page(self, key: int, value: int) -> None:
        os.pwrite(self._device, b"%16d" % value * (BLOCK // 16), key * BLOCK)

    def _write(self, block: int, data: bytes) -> None:
        os.pwrite(self._device, data.ljust(BLOCK, b"\0"), block * BLOCK)


if __name__ == "__main__":
    device, key, value, *rest = sys.argv[1:]
    store = Store(device, forgetful=bool(rest))
    store.put(int(key), int(value))
    store.close()
