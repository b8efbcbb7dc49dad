"""The images in one folder of the cache, which are removed only if nothing uses them.

What a running guest uses is not removed. An image is not removed while a run is alive that may have found it.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_xhyve.cli.layers_over import LayersOver
from pytest_xhyve.host import runs
from pytest_xhyve.host.home import Home
from pytest_xhyve.images.backing import folders_of

# Time stamps of files may be late by a tick of the kernel; this is longer.
_CLOCK_SECONDS = 1.0


class ImageFolder:
    """The images that were built in a folder.

    Args:
        home: the cache folder.
        folder: its folder of images.
        over: knows the layers that are based on a build.
    """

    def __init__(self, home: Home, folder: Path, over: LayersOver) -> None:
        self._home = home
        self._folder = folder
        self._over = over

    def blocked_by(self, name: str, build: Path | None, until: float | None) -> str:
        """What the build of the image *name* is needed for, or an empty text.

        Args:
            name: the image's name.
            build: the build's folder; None if guests cannot use it.
            until: when another build replaced its manifest, in seconds since the epoch; None if it is the current one.
        """
        if self._folder.is_symlink():
            return f"{self._folder} is a symbolic link, so its guests are not known here"
        if build is None:
            return "it is being built" if self._is_locked(name) else ""
        if reason := self._find_use(build, until):
            return reason
        return "it is being built" if self._is_locked(name) else ""

    def remove_current(self, name: str, manifest: Path, build: Path) -> bool:
        """Remove the image *name*: first its manifest, so that no process finds it any more, then *build*."""
        with contextlib.suppress(Timeout), FileLock(self._lock(name), timeout=0):
            hidden = manifest.with_suffix(".pruned")
            manifest.rename(hidden)
            if self._find_use(build, None):
                # A run may have found it just before.
                hidden.rename(manifest)
                return False
            hidden.unlink()
            return _remove(build, name)
        return False

    def remove(self, name: str, path: Path) -> bool:
        """Remove *path*, which no manifest of the image *name* names."""
        with contextlib.suppress(Timeout), FileLock(self._lock(name), timeout=0):
            return _remove(path, name)
        return False

    def remove_unpacked(self, key: str, path: Path) -> bool:
        """Remove the folder *path* of an unpacked disk; it is renamed first, so that no process finds it any more."""
        with contextlib.suppress(Timeout), FileLock(self._lock(key), timeout=0):
            hidden = path.with_name(f".{key}.pruned")
            path.rename(hidden)
            if self._find_use(path, None):
                # A run may have found it just before.
                hidden.rename(path)
                return False
            return _remove(hidden, key)
        return False

    def _find_use(self, build: Path, until: float | None) -> str:
        """Whether a guest or a layer uses *build*, or a guest may use it soon, as a reason; see `blocked_by`."""
        if layers := self._over.names(build):
            return f"it is below {', '.join(layers)}"
        folder = self._home.find_folder("runs")
        if folder is None:
            return ""
        if any(build.resolve() in folders_of(Path(guest.image_disk)) for guest in runs.live_guests(folder)):
            return "a guest uses it"
        # A run looks up images after it began, and uses what it has found until it ends.
        if any(until is None or began < until + _CLOCK_SECONDS for began in runs.living_runs(folder)):
            return "an active run may need it"
        return ""

    def _lock(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _is_locked(self, name: str) -> bool:
        if not self._lock(name).exists():
            return False
        try:
            with FileLock(self._lock(name), timeout=0):
                return False
        except Timeout:
            return True


def _remove(path: Path, name: str) -> bool:
    """Remove the folder at *path*; it is renamed first, so that an incomplete folder never has its name.

    The next build of the image *name* removes what is left if this process is killed.
    """
    hidden = path if path.name.startswith(".") else path.with_name(f".{name}.{path.name}")
    if hidden != path:
        with contextlib.suppress(FileNotFoundError):
            path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    return not hidden.exists()
