"""The plugin's folder: images, keys, slots and the folders of runs."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.model.errors import XhyveError

HOME_VARIABLE = "PYTEST_XHYVE_HOME"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything lies that outlives a test; each folder in it is the user's own (0700)."""

    path: Path

    @classmethod
    def of_user(cls) -> Home:
        """``$PYTEST_XHYVE_HOME``, or the user's cache folder as the platform names it.

        Raises:
            XhyveError: it would be in the home folder of a user who has none.
        """
        given = os.environ.get(HOME_VARIABLE, "")
        try:
            if given:
                return cls(Path(given).expanduser().absolute())
            # Half the price of our own import: asked only where the variable is not set.
            from platformdirs import user_cache_path  # noqa: PLC0415

            path = user_cache_path("pytest-xhyve")
        except RuntimeError as error:
            if given.partition("/")[0] not in ("", "~"):
                raise XhyveError(
                    f"{HOME_VARIABLE}: {given!r} begins with the home of a user who is none here"
                ) from error
            path = Path()
        if not path.is_absolute():
            raise XhyveError(
                "there is no cache folder: this user has no home folder, and HOME is not set\n"
                f"  set {HOME_VARIABLE} to a folder that you may write"
            )
        return cls(path)

    def folder(self, name: str) -> Path:
        """The folder *name* in here, made if it is not there yet, and fit to be written to.

        Raises:
            XhyveError: it cannot be made, or is not ours.
        """
        path = self.path / name
        try:
            # The folder above may be shared, and is not ours to change.
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_mode & 0o077:
                path.chmod(0o700)
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                read_only = os.statvfs(path).f_flag & os.ST_RDONLY
                number = errno.EROFS if read_only else errno.EACCES
                raise OSError(number, os.strerror(number), str(path))
        except OSError as error:
            raise self._unusable(error, "write") from error
        return path

    def find_folder(self, name: str) -> Path | None:
        """The folder *name* in here, or None when it is not there; nothing is made.

        Raises:
            XhyveError: it cannot be read.
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
        """Say what is wrong with this folder in the place of the bare error that writing to it ends with.

        Raises:
            XhyveError: no space is left, or something in here cannot be read or written.
        """
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL and not str(error.filename).startswith(f"{self.path}{os.sep}"):
                raise
            raise self._unusable(error, "write") from error

    def _unusable(self, error: OSError, what: str) -> XhyveError:
        if error.errno in _FULL:
            return XhyveError(f"no space is left for guests: {error.strerror}\n{about_room(self.path)}")
        at = f"it is {error.filename}; " if error.filename and str(error.filename) != str(self.path) else ""
        return XhyveError(
            f"cannot use the cache folder {self.path}: {error.strerror}\n"
            f"  {at}set {HOME_VARIABLE} to a folder that you may {what}"
        )


def about_room(folder: Path) -> str:
    """How much space is left where *folder* is, and what to do about it, for a message."""
    try:
        free = f"{shutil.disk_usage(folder).free >> 10} KiB are free at {folder}"
        files = os.statvfs(folder)
        if files.f_files and not files.f_favail:
            free += ", and it can have no more files (df -i)"
    except OSError:
        free = f"{folder} cannot be looked at"
    return (
        f"  {free}; `pytest-xhyve prune` frees what can be made again, or set {HOME_VARIABLE} to a folder with more "
        "room"
    )
