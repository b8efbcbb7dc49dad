"""A folder of the host that guests read, file by file, without leaving it.

No path of a guest reaches the host's kernel as a whole: each component is opened by itself and without following a
link, so that nothing outside of the folder can be read, whatever changes there meanwhile. Nothing is ever written.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN_BYTES = 16
_ID_BYTES = 8
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO would block until somebody writes to it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class _Known:
    """A file that a guest has a handle of.

    Attributes:
        path: the names of the folders down to it, and its own.
        inode: its device and number; if another file has its place, the handle is stale.
    """

    path: tuple[bytes, ...]
    inode: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A file, a folder or a link of the shared folder.

    Attributes:
        handle: stands for it in later calls.
        status: what stat(2) shows, of a link itself.
    """

    handle: bytes
    status: os.stat_result


class SharedFolder:
    """The folder at *path*, for reading.

    Safe to use from several threads.

    Args:
        path: the folder; a link to it is followed once, here.

    Raises:
        OSError: it is not a folder that can be read. All methods raise this for a file that cannot be read, that has
            gone, or that is of another kind; ESTALE for a handle of a file that is not there any more.
    """

    def __init__(self, path: Path) -> None:
        self.token = secrets.token_bytes(TOKEN_BYTES)
        """Who does not know it has no handle; it is in each of them."""
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._known: dict[int, _Known] = {}
        self._ids: dict[_Known, int] = {}

    def close(self) -> None:
        """Close the folder; a call that another thread makes then is an error."""
        with self._lock:
            os.close(self._root)
            self._root = -1

    def root(self) -> SharedFile:
        """The folder itself."""
        with self._opened(()) as root:
            return self._share((), os.fstat(root))

    def find(self, handle: bytes) -> SharedFile:
        """The file with this *handle*."""
        known = self._look_up(handle)
        if not known.path:
            return self.root()
        with self._opened(known.path[:-1]) as folder:
            return self._checked(known, handle, os.stat(known.path[-1], dir_fd=folder, follow_symlinks=False))

    def look_up(self, handle: bytes, name: bytes) -> SharedFile:
        """The file *name* of the folder with this *handle*."""
        known = self._look_up(handle)
        if len(name) > MAX_NAME_BYTES:
            raise OSError(errno.ENAMETOOLONG, "the name is too long")
        if name == b"." or (name == b".." and not known.path):
            return self.find(handle)
        if name == b"..":
            return self._found(known.path[:-1])
        if not name or b"/" in name or b"\0" in name:
            raise OSError(errno.ENOENT, "no file has such a name")
        return self._found((*known.path, name))

    def read_link(self, handle: bytes) -> bytes:
        """Where the link with this *handle* leads to, for the guest to follow among its own files."""
        known = self._look_up(handle)
        with self._opened(known.path[:-1]) as folder:
            return os.readlink(known.path[-1] if known.path else b".", dir_fd=folder)

    def read(self, handle: bytes, offset: int, count: int) -> tuple[bytes, SharedFile]:
        """At most *count* bytes of a file's content, from *offset*."""
        known = self._look_up(handle)
        if not known.path:
            raise OSError(errno.EISDIR, "a folder has no content")
        with self._opened(known.path[:-1]) as folder:
            # Opening some devices changes them: a tape rewinds, a watchdog starts.
            _check_regular(os.stat(known.path[-1], dir_fd=folder, follow_symlinks=False))
            file = os.open(known.path[-1], _FILE, dir_fd=folder)
        try:
            found = self._checked(known, handle, os.fstat(file))
            _check_regular(found.status)
            return os.pread(file, count, offset), found
        finally:
            os.close(file)

    def names(self, handle: bytes) -> list[bytes]:
        """The names in the folder with this *handle*, in a fixed order."""
        with self._opened(self._look_up(handle).path) as folder:
            return sorted(map(os.fsencode, os.listdir(folder)))  # noqa: PTH208 - a descriptor is not a path

    def _found(self, path: tuple[bytes, ...]) -> SharedFile:
        if not path:
            return self.root()
        with self._opened(path[:-1]) as folder:
            return self._share(path, os.stat(path[-1], dir_fd=folder, follow_symlinks=False))

    @contextmanager
    def _opened(self, path: tuple[bytes, ...]) -> Iterator[int]:
        """The folder at *path*, as a descriptor."""
        with self._lock:
            folder = os.dup(self._root)
        try:
            for name in path:
                inside = os.open(name, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inside
            yield folder
        finally:
            os.close(folder)

    def _share(self, path: tuple[bytes, ...], status: os.stat_result) -> SharedFile:
        known = _Known(path, (status.st_dev, status.st_ino))
        with self._lock:
            number = self._ids.setdefault(known, len(self._ids))
            self._known[number] = known
        return SharedFile(self.token + number.to_bytes(_ID_BYTES), status)

    def _look_up(self, handle: bytes) -> _Known:
        if hmac.compare_digest(handle[:TOKEN_BYTES], self.token):
            with self._lock:
                known = self._known.get(int.from_bytes(handle[TOKEN_BYTES:]))
            if known is not None:
                return known
        raise OSError(errno.ESTALE, "no such handle")

    def _checked(self, known: _Known, handle: bytes, status: os.stat_result) -> SharedFile:
        if known.inode != (status.st_dev, status.st_ino):
            raise OSError(errno.ESTALE, "another file has its place")
        return SharedFile(handle, status)


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a link is not followed")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "only files have content")
