"""Write the frames of a LAN to a file that Wireshark and tcpdump read: pcapng, with an interface for each guest.

Source: the Internet-Draft "PCAP Next Generation (pcapng) Capture File Format" (draft-ietf-opsawg-pcapng), sections 4.1
to 4.3. This file is a part of the switch's script: it needs only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time

from pytest_xhyve.lan.frames import HEADER

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_ETHERNET = 1  # LINKTYPE_ETHERNET
_NAME, _RESOLUTION, _END = 2, 9, 0
_NANOSECONDS = 9
_FLUSH_BYTES = 1 << 16
# Bytes of the blocks of a frame beside its content, and of its guest's interface.
_MAX_OVERHEAD = 512
_TOO_LONG = "the file has reached its limit; max_size= sets another one"


class Capture:
    """An open file; closed by `close`.

    Args:
        fd: its descriptor.
        max_bytes: how long the file may become; a guest can send any number of frames.
    """

    def __init__(self, fd: int, max_bytes: int) -> None:
        # The reader of a pipe may be slow, and the guests must not wait for it.
        os.set_blocking(fd, False)
        self._fd = fd
        self._left = max_bytes
        self._interfaces: dict[str, int] = {}
        self._unwritten: list[bytes] = []
        self._size = 0
        self.frames = 0
        self.error = ""
        """Why frames are missing; empty if none are."""
        self._add(_block(_SECTION, struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)))

    def add(self, source: str, frame: bytes) -> None:
        """Add *frame*, which is behind its length, as one from the guest *source*."""
        if self.error:
            return
        if self._left < self._size + len(frame) + _MAX_OVERHEAD:
            self.flush()
            self.error = self.error or _TOO_LONG
            return
        number = self._interfaces.get(source)
        if number is None:
            number = self._interfaces[source] = len(self._interfaces)
            options = _option(_NAME, source.encode()) + _option(_RESOLUTION, bytes([_NANOSECONDS])) + _option(_END, b"")
            self._add(_block(_INTERFACE, struct.pack("=HHI", _ETHERNET, 0, 0) + options))
        now, length = time.time_ns(), len(frame) - HEADER
        head = struct.pack("=IIIII", number, now >> 32, now & 0xFFFF_FFFF, length, length)
        self._add(_block(_PACKET, head + _padded(frame[HEADER:])))
        self.frames += 1

    @property
    def has_unwritten(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._unwritten)

    def flush(self) -> None:
        """Write what was added. On a full disk, the capture ends, and `error` states so; the switch goes on."""
        content = memoryview(b"".join(self._unwritten))
        self._unwritten.clear()
        self._left -= self._size
        self._size = 0
        try:
            while content and not self.error:
                content = content[os.write(self._fd, content) :]
        except OSError as error:
            self.error = os.strerror(error.errno or 0)

    def close(self) -> None:
        """Write the rest, and close the file."""
        self.flush()
        with contextlib.suppress(OSError):
            os.close(self._fd)

    def _add(self, block: bytes) -> None:
        self._unwritten.append(block)
        self._size += len(block)
        if self._size > _FLUSH_BYTES:
            self.flush()


def _block(kind: int, body: bytes) -> bytes:
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")
