"""Remove what is not needed from the cache folder; everything that is removed can be made again.

Tests may run at the same time, and what a running guest uses is not removed. Guests lock the templates that they use;
making a template and building an image take locks, too. An image is not removed while a run is alive that may have
found it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_xhyve.cli.cache_listing import find_store, iso_time
from pytest_xhyve.cli.layers_over import LayersOver
from pytest_xhyve.host import runs
from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.backing import folders_of
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.layers import FOLDER, MANIFEST
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.pulled import FOLDER as PULLED
from pytest_xhyve.images.pulled import current_folders
from pytest_xhyve.images.recipe import recipe_names
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.templates.store import TemplateStore

# The name of an image's folder, from `pytest_xhyve.images.build`; all other files there belong to the user.
_BUILD = re.compile(r"(.+)-[0-9a-f]{12}")
# Time stamps of files may be late by a tick of the kernel; this is longer.
_CLOCK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PruneCandidate:
    """Something that can be removed.

    Attributes:
        kind: ``template``, ``leftover``, ``earlier build``, ``image``, ``prepared disk``, ``layer``, ``saved image``,
            ``unpacked disk``, ``pulled disk`` or ``digests``.
        name: its name, for people.
        path: its path.
        size: bytes on the disk.
        used: when it was last used, as far as known, in seconds since the epoch.
        blocked_by: returns what it is needed for, or an empty text; called before it is removed.
        remove: removes it, unless something needs it by now; returns whether it is removed.
        pretend: called in its place if nothing is to be removed, so that what only it needs counts as free.
    """

    kind: str
    name: str
    path: Path
    size: int
    used: float
    blocked_by: Callable[[], str]
    remove: Callable[[], bool]
    pretend: Callable[[], None] = lambda: None

    def as_json(self) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.path),
            "bytes": self.size,
            "used_at": iso_time(self.used),
        }


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be removed, and what was kept, with the reason."""

    removed: tuple[PruneCandidate, ...]
    kept: tuple[tuple[PruneCandidate, str], ...]

    @property
    def freed(self) -> int:
        """The freed disk space, in bytes."""
        return sum(candidate.size for candidate in self.removed)

    def as_json(self, *, dry_run: bool) -> dict[str, Any]:
        """The data for JSON."""
        return {
            "dry_run": dry_run,
            "removed": [candidate.as_json() for candidate in self.removed],
            "kept": [candidate.as_json() | {"reason": reason} for candidate, reason in self.kept],
            "freed": self.freed,
        }


def find_candidates(home: Home, *, older_than: float = 0.0, images: bool = False) -> list[PruneCandidate]:
    """What may be removed from *home*, including what is in use at present.

    Args:
        home: the cache folder.
        older_than: leave out what was used within this number of seconds.
        images: include the images of the catalog, and what was unpacked and prepared of disks.

    Raises:
        XhyveError: the cache folder cannot be read.
    """
    latest = time.time() - older_than
    with ExitStack() as stack:
        stack.enter_context(_explain_os_errors(home))
        # Layers before what they are based on.
        over = LayersOver(home)
        found = [*_templates(home), *_made(home, over, current=images, kind="layer", name=FOLDER)]
        found += _images(home, over, current=images)
        found += _made(home, over, current=images, kind="prepared disk", name="prepared")
        found += _unpacked(home, over, current=images)
        found += _pulled(home, over, current=images)
        found += _digests(home, latest)
    return [candidate for candidate in found if candidate.used <= latest or not older_than]


def remove(candidates: list[PruneCandidate], home: Home, *, dry_run: bool = False) -> Pruned:
    """Remove those *candidates* that are not needed; with *dry_run*, only find them.

    Raises:
        XhyveError: this user may not write to *home*.
    """
    if candidates and not dry_run and not os.access(home.path, os.W_OK | os.X_OK):
        raise XhyveError(
            f"cannot remove anything in {home.path}: this user may not write to it\n"
            f"  set {HOME_VARIABLE} to another folder, or run the command as the folder's owner"
        )
    removed, kept = [], []
    for candidate in candidates:
        if not candidate.path.exists():
            # Another process has removed it.
            continue
        try:
            reason = candidate.blocked_by()
            if not reason and dry_run:
                candidate.pretend()
            elif not reason and not candidate.remove():
                reason = candidate.blocked_by() or "it could not be removed completely"
        except OSError as error:
            reason = f"cannot remove it: {error.strerror}"
        if reason:
            kept.append((candidate, reason))
        else:
            removed.append(candidate)
    return Pruned(tuple(removed), tuple(kept))


def _templates(home: Home) -> Iterator[PruneCandidate]:
    store = find_store(home)
    if store is None:
        return
    for template in store.all():
        name = f"{template.image} ({template.key})"
        yield _of_store(store, "template", name, template.folder, template.last_used)
    for folder in store.leftovers():
        yield _of_store(store, "leftover", folder.name, folder, _changed(folder))


def _of_store(store: TemplateStore, kind: str, name: str, folder: Path, used: float) -> PruneCandidate:
    def blocked_by() -> str:
        return "a guest uses it, or it is being made" if store.is_in_use(folder) else ""

    return PruneCandidate(kind, name, folder, size_on_disk(folder), used, blocked_by, partial(store.remove, folder))


class _Builds:
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


def _images(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    folder = home.find_folder("images")
    if folder is None:
        return
    builds = _Builds(home, folder, over)
    named: dict[Path, Path] = {}
    unreadable = set()
    for manifest in [*folder.glob("*.yaml"), *folder.glob("*.yml")]:
        try:
            named[read_manifest(manifest).disk.parent] = manifest
        except ConfigurationError:
            unreadable.add(manifest.stem)
    for path in sorted(folder.iterdir()):
        # The names come from `tempfile.mkdtemp` and `pytest_xhyve.images.build`.
        if path.is_dir() and path.name.startswith(".") and path.name.count(".") > 1:
            name = path.name[1:].rpartition(".")[0]
            blocked_by, away = partial(builds.blocked_by, name, None, None), partial(builds.remove, name, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), _changed(path), blocked_by, away)
            continue
        match = _BUILD.fullmatch(path.name)
        if match is None or not path.is_dir() or match[1] in unreadable:
            continue
        name = match[1]
        if path in named:
            manifest = named[path]
            if not current or name not in recipe_names() or manifest.name != f"{name}.yaml":
                continue
            disk = path / "disk.img"
            used = max(disk.stat().st_atime if disk.exists() else 0.0, _changed(manifest))
            blocked_by = partial(builds.blocked_by, name, path, None)
            away = partial(builds.remove_current, name, manifest, path)
            yield PruneCandidate("image", name, path, size_on_disk(path), used, blocked_by, away)
        else:
            manifest = folder / f"{name}.yaml"
            replaced = max(_changed(path), _changed(manifest) if manifest.exists() else 0.0)
            blocked_by, away = partial(builds.blocked_by, name, path, replaced), partial(builds.remove, name, path)
            yield PruneCandidate("earlier build", path.name, path, size_on_disk(path), replaced, blocked_by, away)


def _made(home: Home, over: LayersOver, *, current: bool, kind: str, name: str) -> Iterator[PruneCandidate]:
    """The layers in the folder *name*: what was made of users' disks, which are not touched, of recipes and of guests.

    A layer comes before those that it is based on.
    """
    folder = home.find_folder(name)
    if folder is None:
        return
    builds = _Builds(home, folder, over)
    found: list[tuple[int, Path, Image]] = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        image = None if path.name.startswith(".") else read_if_complete(path / MANIFEST)
        if image is None:
            key = path.name.removeprefix(".").partition(".")[0]
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), _changed(path), blocked_by, away)
        elif current:
            found.append((-len(folders_of(image.disk)), path, image))
    for _, path, image in sorted(found, key=lambda each: each[:2]):
        manifest, saved = path / MANIFEST, over.saved_names(path)
        used = max(image.disk.stat().st_atime, _changed(manifest))
        blocked_by = partial(builds.blocked_by, path.name, path, None)
        away = partial(_remove_layer, partial(builds.remove_current, path.name, manifest, path), over, path)
        shown = f"{', '.join(saved) or image.name} ({path.name})"
        size, forget = size_on_disk(path), partial(over.forget, path)
        yield PruneCandidate("saved image" if saved else kind, shown, path, size, used, blocked_by, away, forget)


def _remove_layer(remove: Callable[[], bool], over: LayersOver, path: Path) -> bool:
    if not remove():
        return False
    over.forget_names(path)
    return True


def _unpacked(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    """What `pytest_xhyve.preparation.unpack` has unpacked."""
    folder = home.find_folder("unpacked")
    if folder is None:
        return
    builds = _Builds(home, folder, over)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name.startswith("."):
            key = path.name.removeprefix(".").partition(".")[0]
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), _changed(path), blocked_by, away)
        elif current:
            disk = path / "disk"
            used = max(disk.stat().st_atime if disk.exists() else 0.0, _changed(path))
            blocked_by = partial(builds.blocked_by, path.name, path, None)
            away = partial(builds.remove_unpacked, path.name, path)
            yield PruneCandidate("unpacked disk", path.name, path, size_on_disk(path), used, blocked_by, away)


def _pulled(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    """What `pytest_xhyve.images.pulled` has downloaded: the current files, earlier ones, and parts."""
    folder = home.find_folder(PULLED)
    if folder is None:
        return
    builds = _Builds(home, folder, over)
    used = current_folders(home.path)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        key = path.name.removeprefix(".").partition("-")[0]
        if path.name.startswith("."):
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), _changed(path), blocked_by, away)
        elif current or path not in used:
            blocked_by, away = partial(builds.blocked_by, key, path, None), partial(builds.remove_unpacked, key, path)
            shown = used.get(path, path.name)
            yield PruneCandidate("pulled disk", shown, path, size_on_disk(path), _changed(path), blocked_by, away)


def _digests(home: Home, latest: float) -> Iterator[PruneCandidate]:
    """The digests of files that do not exist any more, as one candidate: there are many, and each is small."""
    folder = home.find_folder("checked")
    if folder is None:
        return
    stale = [path for path in folder.glob("*.json") if _is_stale(path) and _changed(path) <= latest]
    if not stale:
        return
    files = [file for path in stale for file in (path, path.with_suffix(".lock")) if file.exists()]

    def away() -> bool:
        for path in stale:
            if _is_stale(path):
                # No process waits for the lock of a file that does not exist.
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
        return True

    size = sum(size_on_disk(file) for file in files)
    used = max(_changed(path) for path in stale)
    yield PruneCandidate("digests", f"{len(stale)} of deleted files", folder, size, used, lambda: "", away)


def _is_stale(path: Path) -> bool:
    """Whether the digest at *path* is that of a deleted file, or does not name its file."""
    try:
        return not Path(json.loads(path.read_text())["path"]).exists()
    except (ValueError, KeyError, TypeError):
        return True
    except FileNotFoundError:
        return False


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


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def _explain_os_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise XhyveError(f"cannot read {error.filename or home.path}: {error.strerror}") from error
