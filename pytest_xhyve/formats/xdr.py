"""XDR (RFC 4506) and the messages of ONC RPC over TCP (RFC 5531), as far as a server of NFS needs them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_CALL, _REPLY, _ACCEPTED, _DENIED = 0, 1, 0, 1
_RPC_VERSION = 2
_MAX_AUTH_BYTES = 400
_LAST_FRAGMENT = 1 << 31

# The answers to a call that the server does not carry out (RFC 5531, section 9).
SUCCESS, UNKNOWN_PROGRAM, UNKNOWN_VERSION, UNKNOWN_PROCEDURE, UNREADABLE_ARGUMENTS = range(5)


class XdrError(ValueError):
    """The bytes are not what the protocol defines."""


class XdrReader:
    """Reads values from bytes that are not trusted.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def uint(self) -> int:
        """An unsigned integer of 32 bits.

        Raises:
            XdrError: the bytes end before; so do all methods.
        """
        return int.from_bytes(self._take(4))

    def uhyper(self) -> int:
        """An unsigned integer of 64 bits."""
        return int.from_bytes(self._take(8))

    def opaque(self, limit: int) -> bytes:
        """Bytes of a variable length, which is at most *limit*."""
        size = self.uint()
        if size > limit:
            raise XdrError(f"{size} bytes where at most {limit} may be")
        data = self._take(size)
        self._take(-size % 4)
        return data

    def fixed(self, size: int) -> bytes:
        """Bytes of the length *size*."""
        data = self._take(size)
        self._take(-size % 4)
        return data

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise XdrError("the message is too short")
        data, self._at = self._data[self._at : end], end
        return data


def uints(*values: int) -> bytes:
    """Unsigned integers of 32 bits."""
    return struct.pack(f">{len(values)}I", *values)


def uhyper(value: int) -> bytes:
    """An unsigned integer of 64 bits."""
    return value.to_bytes(8)


def opaque(data: bytes) -> bytes:
    """Bytes of a variable length."""
    return uints(len(data)) + data + bytes(-len(data) % 4)


@dataclass(frozen=True, slots=True)
class RpcCall:
    """A call of a procedure.

    Attributes:
        xid: the caller's number for it.
        program: the program, such as 100003 for NFS.
        version: its version.
        procedure: the number of the procedure.
        arguments: reads its arguments.
    """

    xid: int
    program: int
    version: int
    procedure: int
    arguments: XdrReader


def read_call(message: bytes) -> RpcCall:
    """The call in *message*; who makes it is not looked at.

    Raises:
        XdrError: it is not a call.
    """
    reader = XdrReader(message)
    xid = reader.uint()
    if (reader.uint(), reader.uint()) != (_CALL, _RPC_VERSION):
        raise XdrError("the message is not a call")
    program, version, procedure = reader.uint(), reader.uint(), reader.uint()
    for _ in ("credentials", "verifier"):
        reader.uint()
        reader.opaque(_MAX_AUTH_BYTES)
    return RpcCall(xid, program, version, procedure, reader)


def write_reply(xid: int, status: int, result: bytes = b"") -> bytes:
    """The reply to the call *xid*, as one record.

    Args:
        xid: the call's number.
        status: `SUCCESS`, or why the server does not carry the call out.
        result: what the procedure returned; for `UNKNOWN_VERSION`, the lowest and the highest version.
    """
    message = uints(xid, _REPLY, _ACCEPTED, 0, 0, status) + result
    return uints(_LAST_FRAGMENT | len(message)) + message


def parse_record_mark(mark: bytes) -> tuple[int, bool]:
    """The length of the fragment that follows *mark*, in bytes, and whether it is the record's last one."""
    value = int.from_bytes(mark)
    return value & ~_LAST_FRAGMENT, bool(value & _LAST_FRAGMENT)
