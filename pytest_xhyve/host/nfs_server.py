"""A server of NFS 3 (RFC 1813) that guests mount folders of the host from, read-only.

Debian's kernels have a client of NFS, also the one for clouds, which has no 9p. A mount needs no device, so that
restored guests get it, and a snapshot contains it; virtiofs needs memory that the hypervisor shares with a process.

The server listens on the loopback interface. Programs of other users of the host can connect to it too, but they do not
know the token, and get no handle without it. A guest is not trusted: each message has a limit, and each procedure
that would write is refused here, whatever the guest has mounted.
"""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from pytest_xhyve.formats.xdr import (
    SUCCESS,
    UNKNOWN_PROCEDURE,
    UNKNOWN_PROGRAM,
    UNKNOWN_VERSION,
    UNREADABLE_ARGUMENTS,
    RpcCall,
    XdrError,
    XdrReader,
    opaque,
    parse_record_mark,
    read_call,
    uhyper,
    uints,
    write_reply,
)
from pytest_xhyve.host.acceptor import Acceptor
from pytest_xhyve.host.shared_folder import MAX_NAME_BYTES, TOKEN_BYTES, SharedFile, SharedFolder

LOOPBACK = "127.0.0.1"
READ_BYTES = 1 << 18
"""The longest answer to one call that reads."""

_NFS, _MOUNT, _VERSION = 100003, 100005, 3
# Only calls that write are longer.
_MAX_CALL_BYTES = 1 << 14
_MAX_CONNECTIONS = 16
# Connections of programs that have not named a token. A guest names it at once.
_MAX_STRANGERS = 64
_MAX_HANDLE_BYTES, _MAX_PATH_BYTES = 64, 1024
_MOUNT_DENIED = 13
_NFS_OK, _READ_ONLY, _INVALID, _SERVER_FAULT = 0, 30, 22, 10006
_NO_VERIFIER = bytes(8)
# The errors of the host that the protocol has a number for.
_STATUS = {
    errno.EPERM: 1,
    errno.ENOENT: 2,
    errno.ELOOP: 70,
    errno.EACCES: 13,
    errno.ENOTDIR: 20,
    errno.EISDIR: 21,
    errno.EINVAL: 22,
    errno.ENAMETOOLONG: 63,
    errno.ESTALE: 70,
}
_INPUT_OUTPUT = 5
_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFBLK: 3,
    stat.S_IFCHR: 4,
    stat.S_IFLNK: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFIFO: 7,
}
_READ, _LOOKUP, _EXECUTE = 1, 2, 32
# How many attributes that the server leaves out stand in the answer of each procedure that writes: two words a file.
_WRITING = {2: 2, 7: 2, 8: 2, 9: 2, 10: 2, 11: 2, 12: 2, 13: 2, 14: 4, 15: 3, 21: 2}
# How many such words stand in the answer of a procedure that reads and has failed.
_FAILED = {1: 0}
_HAS_LINKS, _SAME_EVERYWHERE, _TIMES_ARE_SET = 0x2, 0x8, 0x10
_LARGEST_FILE = (1 << 63) - 1


class NfsServer:
    """Serves *folders* on a port of the loopback interface, until it is closed.

    Args:
        folders: what it serves; they must stay open until it is closed.
    """

    def __init__(self, folders: Sequence[SharedFolder]) -> None:
        self._owner = (0, 0)
        self._folders = {folder.token: folder for folder in folders}
        self._server = socket.create_server((LOOPBACK, 0))
        self._acceptor = Acceptor(self._server, self._serve, "xhyve-shares", _MAX_CONNECTIONS, _MAX_STRANGERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port of NFS and of its mount protocol."""
        return int(self._server.getsockname()[1])

    def close(self) -> None:
        """End all connections."""
        self._acceptor.close()

    def _serve(self, connection: socket.socket, trust: Callable[[], bool]) -> None:
        is_known = False
        with suppress(OSError, XdrError, EOFError):
            while True:
                record = _receive_record(connection)
                # Who knows a token names it in each call but the one that tries whether the server lives.
                if not is_known and any(token in record or token.hex().encode() in record for token in self._folders):
                    is_known = trust()
                connection.sendall(self.answer(read_call(record)))

    def answer(self, call: RpcCall) -> bytes:
        """The record that answers *call*."""
        procedures = {_NFS: self._read_procedure, _MOUNT: self._mount_procedure}.get(call.program)
        if procedures is None:
            return write_reply(call.xid, UNKNOWN_PROGRAM)
        if call.version != _VERSION:
            return write_reply(call.xid, UNKNOWN_VERSION, uints(_VERSION, _VERSION))
        if call.procedure == 0:
            return write_reply(call.xid, SUCCESS)
        if call.program == _NFS and call.procedure in _WRITING:
            return write_reply(call.xid, SUCCESS, uints(_READ_ONLY, *[0] * _WRITING[call.procedure]))
        procedure = procedures(call.procedure)
        if procedure is None:
            return write_reply(call.xid, UNKNOWN_PROCEDURE)
        try:
            return write_reply(call.xid, SUCCESS, procedure(call.arguments))
        except XdrError:
            return write_reply(call.xid, UNREADABLE_ARGUMENTS)
        except OSError as error:
            status = _STATUS.get(error.errno or 0, _INPUT_OUTPUT)
            return write_reply(call.xid, SUCCESS, uints(status, *[0] * _FAILED.get(call.procedure, 1)))

    def _mount_procedure(self, number: int) -> Callable[[XdrReader], bytes] | None:
        return {1: self._mount, 3: _unmount}.get(number)

    def _read_procedure(self, number: int) -> Callable[[XdrReader], bytes] | None:
        return {
            1: self._get_attributes,
            3: self._look_up,
            4: self._access,
            5: self._read_link,
            6: self._read,
            16: self._read_folder,
            17: self._read_folder_plus,
            18: self._about_space,
            19: self._about_limits,
            20: self._about_names,
        }.get(number)

    def _mount(self, arguments: XdrReader) -> bytes:
        """Give the handle of the folder that ``/TOKEN/USER/GROUP`` names.

        All files then belong to that user and that group, as the numbers of the host mean others in the guest.
        """
        path = arguments.opaque(_MAX_PATH_BYTES)
        try:
            token, *owner = path.decode("ascii").removeprefix("/").split("/")
            folder = self._folders[bytes.fromhex(token)]
            user, group = (int(number) & 0xFFFFFFFF for number in owner)
        except (KeyError, ValueError):
            return uints(_MOUNT_DENIED)
        self._owner = (user, group)
        # One flavour of credentials: AUTH_SYS.
        return uints(_NFS_OK) + opaque(folder.root().handle) + uints(1, 1)

    def _file(self, arguments: XdrReader) -> tuple[SharedFolder, bytes]:
        """The folder and the handle that a call names first."""
        handle = arguments.opaque(_MAX_HANDLE_BYTES)
        folder = self._folders.get(handle[:TOKEN_BYTES])
        if folder is None:
            raise OSError(errno.ESTALE, "no such handle")
        return folder, handle

    def _get_attributes(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        return uints(_NFS_OK) + self._attributes(folder.find(handle))

    def _look_up(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        found = folder.look_up(handle, arguments.opaque(_MAX_PATH_BYTES))
        return uints(_NFS_OK) + opaque(found.handle) + self._known(found) + uints(0)

    def _access(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        found = folder.find(handle)
        allowed = _READ | _LOOKUP
        if stat.S_ISDIR(found.status.st_mode) or found.status.st_mode & 0o111:
            allowed |= _EXECUTE
        return uints(_NFS_OK) + self._known(found) + uints(arguments.uint() & allowed)

    def _read_link(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        return uints(_NFS_OK) + self._known(folder.find(handle)) + opaque(folder.read_link(handle))

    def _read(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        offset, count = arguments.uhyper(), min(arguments.uint(), READ_BYTES)
        if offset > _LARGEST_FILE:
            raise OSError(errno.EINVAL, "no file is as long")
        data, found = folder.read(handle, offset, count)
        is_end = offset + len(data) >= found.status.st_size
        return uints(_NFS_OK) + self._known(found) + uints(len(data), is_end) + opaque(data)

    def _read_folder(self, arguments: XdrReader) -> bytes:
        return self._list(arguments, lambda limits: limits.uint(), lambda _: b"")

    def _read_folder_plus(self, arguments: XdrReader) -> bytes:
        def limit(limits: XdrReader) -> int:
            limits.uint()
            return limits.uint()

        return self._list(arguments, limit, lambda found: self._known(found) + uints(1) + opaque(found.handle))

    def _list(
        self, arguments: XdrReader, read_limit: Callable[[XdrReader], int], describe: Callable[[SharedFile], bytes]
    ) -> bytes:
        """The names of a folder, from the place where the call before ended; a place is a number in their order."""
        folder, handle = self._file(arguments)
        begin = arguments.uhyper()
        arguments.fixed(len(_NO_VERIFIER))
        limit = min(read_limit(arguments), READ_BYTES)
        itself = folder.find(handle)
        answer = [uints(_NFS_OK), self._known(itself), _NO_VERIFIER]
        size = sum(map(len, answer)) + len(uints(0, 0))
        names = [b".", b"..", *folder.names(handle)]
        is_end = True
        for place, name in enumerate(names[begin:], begin + 1):
            try:
                found = folder.look_up(handle, name)
            except OSError:
                # It has gone, or the host may not look at it.
                continue
            entry = uints(1) + uhyper(_file_id(found)) + opaque(name) + uhyper(place) + describe(found)
            size += len(entry)
            if size > limit:
                is_end = False
                break
            answer.append(entry)
        if not is_end and len(answer) == 3:
            raise OSError(errno.EINVAL, "the limit is too small")
        return b"".join(answer) + uints(0, is_end)

    def _about_space(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        return uints(_NFS_OK) + self._known(folder.find(handle)) + 6 * uhyper(0) + uints(0)

    def _about_limits(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        reads = (READ_BYTES, READ_BYTES, 1)
        writes = (READ_BYTES, READ_BYTES, 1)
        limits = uints(*reads, *writes, READ_BYTES) + uhyper(_LARGEST_FILE)
        times = uints(0, 1, _HAS_LINKS | _SAME_EVERYWHERE | _TIMES_ARE_SET)
        return uints(_NFS_OK) + self._known(folder.find(handle)) + limits + times

    def _about_names(self, arguments: XdrReader) -> bytes:
        folder, handle = self._file(arguments)
        answers = uints(32_000, MAX_NAME_BYTES, True, True, False, True)
        return uints(_NFS_OK) + self._known(folder.find(handle)) + answers

    def _known(self, found: SharedFile) -> bytes:
        """Attributes where an answer may leave them out."""
        return uints(1) + self._attributes(found)

    def _attributes(self, found: SharedFile) -> bytes:
        """What the protocol calls fattr3: the host's, but for the owner; there are no programs for other users."""
        status = found.status
        kind = _TYPES.get(stat.S_IFMT(status.st_mode), _TYPES[stat.S_IFSOCK])
        times = b"".join(map(_time, (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)))
        return b"".join(
            [
                uints(kind, status.st_mode & 0o777, status.st_nlink & 0xFFFFFFFF, *self._owner),
                uhyper(status.st_size),
                uhyper(status.st_blocks * 512),
                uints(0, 0),
                uhyper(1),
                uhyper(_file_id(found)),
                times,
            ]
        )


def _unmount(_: XdrReader) -> bytes:
    return b""


def _file_id(found: SharedFile) -> int:
    """A number that no other file of the folder has, also if file systems are mounted in it."""
    return (found.status.st_ino ^ found.status.st_dev << 40) & 0xFFFFFFFFFFFFFFFF


def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(max(nanoseconds, 0), 1_000_000_000)
    return uints(min(seconds, 0xFFFFFFFF), rest)


def _receive_record(connection: socket.socket) -> bytes:
    """The next call.

    Raises:
        EOFError: the client has closed the connection.
        XdrError: the call is too long.
    """
    record = b""
    is_last = False
    while not is_last:
        size, is_last = parse_record_mark(_receive(connection, 4))
        if size > _MAX_CALL_BYTES - len(record) or (size == 0 and not is_last):
            raise XdrError("the call is too long")
        record += _receive(connection, size)
    return record


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
