"""The plugin's folder: images, keys, slots and the folders of runs."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.errors import XhyveError

HOME_VARIABLE = "PYTEST_XHYVE_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything lies that outlives a test; each folder in it is the user's own (0700)."""

    path: Path

    @classmethod
    def of_user(cls) -> Home:
        """``$PYTEST_XHYVE_HOME``, or the user's cache folder as the platform names it.

        Raises:
            XhyveError: the user has no home folder, which either would be in.
        """
        try:
            if given := os.environ.get(HOME_VARIABLE):
                return cls(Path(given).expanduser().absolute())
            # Half the price of our own import: asked only where the variable is not set.
            from platformdirs import user_cache_path  # noqa: PLC0415

            path = user_cache_path("pytest-xhyve")
        except RuntimeError:
            path = Path()
        if not path.is_absolute():
            raise XhyveError(
                "there is no cache folder: this user has no home folder, and HOME is not set\n"
                f"  set {HOME_VARIABLE} to a folder that you may write"
            )
        return cls(path)

    def folder(self, name: str) -> Path:
        """The folder *name* in here, made if it is not there yet.

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
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
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

    def _unusable(self, error: OSError, what: str) -> XhyveError:
        return XhyveError(
            f"cannot use the cache folder {self.path}: {error.strerror}\n"
            f"  set {HOME_VARIABLE} to a folder that you may {what}"
        )
