"""A client of the plugin's NFS server that sends what a hostile guest may send."""

from __future__ import annotations

import socket
from typing import Self

from pytest_xhyve.formats.xdr import XdrReader, opaque, parse_record_mark, uhyper, uints

NFS, MOUNT = 100003, 100005
OK, NO_ENTRY, NOT_FOLDER, INVALID, READ_ONLY, NAME_TOO_LONG, STALE, DENIED = 0, 2, 20, 22, 30, 63, 70, 13


class NfsClient:
    """A connection to the server at *port* of the loopback interface."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._xid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def is_closed(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def call(self, program: int, procedure: int, arguments: bytes = b"", version: int = 3) -> tuple[int, XdrReader]:
        """The status of the answer that RPC defines, and what follows."""
        self._xid += 1
        # AUTH_NONE, twice.
        message = uints(self._xid, 0, 2, program, version, procedure, 0, 0, 0, 0) + arguments
        self.send(uints(1 << 31 | len(message)) + message)
        size, _ = parse_record_mark(self._receive(4))
        reader = XdrReader(self._receive(size))
        assert (reader.uint(), reader.uint(), reader.uint()) == (self._xid, 1, 0)
        reader.opaque(400 if reader.uint() == 0 else 0)
        return reader.uint(), reader

    def nfs(self, procedure: int, arguments: bytes) -> tuple[int, XdrReader]:
        """The status of NFS, and what follows."""
        status, reader = self.call(NFS, procedure, arguments)
        assert status == OK
        return reader.uint(), reader

    def mount(self, path: str) -> bytes | None:
        """The handle of what the server calls *path*; None if it refuses."""
        status, reader = self.call(MOUNT, 1, opaque(path.encode()))
        assert status == OK
        return reader.opaque(64) if reader.uint() == OK else None

    def look_up(self, handle: bytes, name: str) -> tuple[int, bytes]:
        status, reader = self.nfs(3, opaque(handle) + opaque(name.encode()))
        return status, reader.opaque(64) if status == OK else b""

    def find(self, handle: bytes, path: str) -> bytes:
        for name in path.split("/"):
            status, handle = self.look_up(handle, name)
            assert status == OK, name
        return handle

    def read(self, handle: bytes, offset: int = 0, count: int = 1 << 16) -> tuple[int, bytes]:
        status, reader = self.nfs(6, opaque(handle) + uhyper(offset) + uints(count))
        if status != OK:
            return status, b""
        skip_attributes(reader)
        reader.uint()
        reader.uint()
        return status, reader.opaque(1 << 20)

    def names(self, handle: bytes, limit: int = 4096) -> list[str]:
        """All names in a folder, by as many calls as that takes."""
        names, place, is_end = [], 0, 0
        while not is_end:
            status, reader = self.nfs(16, opaque(handle) + uhyper(place) + bytes(8) + uints(limit))
            assert status == OK
            skip_attributes(reader)
            reader.fixed(8)
            while reader.uint():
                reader.uhyper()
                names.append(reader.opaque(255).decode())
                place = reader.uhyper()
            is_end = reader.uint()
        return names

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            assert part, "the server has closed the connection"
            data += part
        return data


def skip_attributes(reader: XdrReader) -> None:
    """Attributes that an answer may leave out (RFC 1813, post_op_attr)."""
    if reader.uint():
        reader.fixed(84)
