"""The cache folder: images, keys, slots and the folders of runs."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.host.exhaustion import explain_exhaustion
from pytest_xhyve.model.errors import XhyveError

HOME_VARIABLE = "PYTEST_XHYVE_HOME"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Home:
    """The cache folder: everything that must stay after a test. Only the user can read its folders (mode 0700)."""

    path: Path

    @classmethod
    def of_user(cls) -> Home:
        """``$PYTEST_XHYVE_HOME``, or ``pytest-xhyve`` in the platform's cache folder of the user.

        Raises:
            XhyveError: the path depends on a home folder, and the user has none.
        """
        given = os.environ.get(HOME_VARIABLE, "")
        try:
            if given:
                return cls(Path(given).expanduser().absolute())
            # This import takes half as long as the plugin's own, so it happens only if the variable is not set.
            from platformdirs import user_cache_path  # noqa: PLC0415

            path = user_cache_path("pytest-xhyve")
        except RuntimeError as error:
            if given.partition("/")[0] not in ("", "~"):
                raise XhyveError(
                    f"{HOME_VARIABLE}: {given!r} starts with the home folder of an unknown user"
                ) from error
            path = Path()
        if not path.is_absolute():
            raise XhyveError(
                "no cache folder: this user has no home folder, and HOME is not set\n"
                f"  set {HOME_VARIABLE} to a folder that you may write"
            )
        return cls(path)

    def folder(self, name: str) -> Path:
        """The folder *name* in the cache folder; it is created if it is missing, and is writable.

        Raises:
            XhyveError: the folder cannot be created, this user may not write to it, or another user has made it.
        """
        path = self.path / name
        try:
            # Only this folder gets the mode: the one above may be shared with other users.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner(path)
            if path.stat().st_mode & 0o077:
                path.chmod(0o700)
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                read_only = os.statvfs(path).f_flag & os.ST_RDONLY
                number = errno.EROFS if read_only else errno.EACCES
                raise OSError(number, os.strerror(number), str(path))
        except OSError as error:
            raise explain_exhaustion(error) or self._unusable(error, "write") from error
        return path

    def find_folder(self, name: str) -> Path | None:
        """The folder *name* in the cache folder, or None if it is missing; nothing is created.

        Raises:
            XhyveError: the folder cannot be read.
        """
        path = self.path / name
        try:
            next(path.iterdir(), None)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error, "read") from error
        return path

    @contextmanager
    def explain_os_errors(self) -> Iterator[None]:
        """Turn an `OSError` about this folder into an error that states the cause and the fix.

        Raises:
            XhyveError: the disk is full, the host has run out of something else, or something in this folder cannot
                be read or written.
        """
        try:
            yield
        except XhyveError as error:
            # What failed first is not the cause.
            exhaustion = explain_exhaustion(error)
            if exhaustion is None:
                raise
            raise exhaustion from error
        except OSError as error:
            exhaustion = explain_exhaustion(error)
            if exhaustion is not None:
                raise exhaustion from error
            if error.errno not in _FULL and not str(error.filename).startswith(f"{self.path}{os.sep}"):
                raise
            raise self._unusable(error, "write") from error

    def _check_owner(self, path: Path) -> None:
        """Check that no other user has made the folder at *path*, or a link in its place, or may replace it.

        Such a user could read the keys and the memory of guests in it. A link could lead root's chmod(2) to any folder.
        """
        above = self.path.stat()
        # Root may use the folder of a user, as sudo on a Mac and a container do.
        own = {os.geteuid(), 0, above.st_uid}
        for status in (path.lstat(), path.stat()):
            if status.st_uid not in own:
                raise XhyveError(
                    f"cannot use the cache folder {self.path}: {path} belongs to another user, number {status.st_uid}\n"
                    f"  set {HOME_VARIABLE} to a folder of your own"
                )
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise XhyveError(
                f"cannot use the cache folder {self.path}: every user may replace what is in it\n"
                f"  `chmod o-w {self.path}`, or set {HOME_VARIABLE} to a folder of your own"
            )

    def _unusable(self, error: OSError, access: str) -> XhyveError:
        if error.errno in _FULL:
            return XhyveError(f"no space left for guests: {error.strerror}\n{about_room(self.path)}")
        at = f"the path is {error.filename}; " if error.filename and str(error.filename) != str(self.path) else ""
        return XhyveError(
            f"cannot use the cache folder {self.path}: {error.strerror}\n"
            f"  {at}set {HOME_VARIABLE} to a folder that you may {access}"
        )


def is_full(folder: Path, least: int) -> bool:
    """Whether the disk of *folder* has less than *least* bytes free, or no inode."""
    files = os.statvfs(folder)
    return shutil.disk_usage(folder).free < least or bool(files.f_files and not files.f_favail)


def about_room(folder: Path) -> str:
    """For a message: how much space is left on the disk of *folder*, and how to free some."""
    try:
        free = f"{shutil.disk_usage(folder).free >> 10} KiB are free at {folder}"
        files = os.statvfs(folder)
        if files.f_files and not files.f_favail:
            free += ", but no inode is free (df -i)"
    except OSError:
        free = f"cannot read {folder}"
    return (
        f"  {free}; run `pytest-xhyve prune`, which removes only what can be made again, or set {HOME_VARIABLE} to a "
        "folder with more space"
    )
