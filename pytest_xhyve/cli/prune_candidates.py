"""Find what may be removed from the cache folder.

Tests may run at the same time. Guests lock the templates that they use; making a template and building an image take
locks, too.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pytest_xhyve.cli.cache_listing import find_store
from pytest_xhyve.cli.image_folder import ImageFolder
from pytest_xhyve.cli.layers_over import LayersOver
from pytest_xhyve.cli.prune import PruneCandidate
from pytest_xhyve.host.disk import size_on_disk
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.vanishing import changed_at, read_at
from pytest_xhyve.images.backing import folders_of
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.layers import FOLDER, INSTALLED, MANIFEST
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.pulled import FOLDER as PULLED
from pytest_xhyve.images.pulled import current_folders
from pytest_xhyve.images.recipe import find_catalog_name
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.templates.store import TemplateStore

# The name of an image's folder, from `pytest_xhyve.images.build`; all other files there belong to the user.
_BUILD = re.compile(r"(.+)-[0-9a-f]{12}")
_INSTALLED = "installed system"
_HALF_SECONDS = 3600.0


def find_candidates(home: Home, *, older_than: float = 0.0, images: bool = False) -> list[PruneCandidate]:
    """What may be removed from *home*, including what is in use at present.

    Args:
        home: the cache folder.
        older_than: leave out what was used within this number of seconds.
        images: include the images of the catalog, systems that were installed, and what was unpacked and prepared of
            disks.

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
        found += _installed(home, over, current=images)
        found += _pulled(home, over, current=images)
        found += _digests(home, latest)
    return [candidate for candidate in found if candidate.used <= latest or not older_than]


def _templates(home: Home) -> Iterator[PruneCandidate]:
    store = find_store(home)
    if store is None:
        return
    for template in store.all():
        name = f"{template.image} ({template.key})"
        yield _of_store(store, "template", name, template.folder, template.last_used)
    for folder in store.leftovers():
        yield _of_store(store, "leftover", folder.name, folder, changed_at(folder))


def _of_store(store: TemplateStore, kind: str, name: str, folder: Path, used: float) -> PruneCandidate:
    def blocked_by() -> str:
        return "a guest uses it, or it is being made" if store.is_in_use(folder) else ""

    return PruneCandidate(kind, name, folder, size_on_disk(folder), used, blocked_by, partial(store.remove, folder))


def _images(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    folder = home.find_folder("images")
    if folder is None:
        return
    builds = ImageFolder(home, folder, over)
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
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), changed_at(path), blocked_by, away)
            continue
        match = _BUILD.fullmatch(path.name)
        if match is None or not path.is_dir() or match[1] in unreadable:
            continue
        name = match[1]
        if path in named:
            manifest = named[path]
            if not current or find_catalog_name(name) is None or manifest.name != f"{name}.yaml":
                continue
            disk = path / "disk.img"
            used = max(read_at(disk), changed_at(manifest))
            blocked_by = partial(builds.blocked_by, name, path, None)
            away = partial(builds.remove_current, name, manifest, path)
            yield PruneCandidate("image", name, path, size_on_disk(path), used, blocked_by, away)
        else:
            manifest = folder / f"{name}.yaml"
            replaced = max(changed_at(path), changed_at(manifest))
            blocked_by, away = partial(builds.blocked_by, name, path, replaced), partial(builds.remove, name, path)
            yield PruneCandidate("earlier build", path.name, path, size_on_disk(path), replaced, blocked_by, away)


def _made(home: Home, over: LayersOver, *, current: bool, kind: str, name: str) -> Iterator[PruneCandidate]:
    """The layers in the folder *name*: what was made of users' disks, which are not touched, of recipes and of guests.

    A layer comes before those that it is based on.
    """
    folder = home.find_folder(name)
    if folder is None:
        return
    builds = ImageFolder(home, folder, over)
    found: list[tuple[int, Path, Image]] = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        image = None if path.name.startswith(".") else read_if_complete(path / MANIFEST)
        if image is None:
            key = path.name.removeprefix(".").partition(".")[0]
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), changed_at(path), blocked_by, away)
        elif current:
            found.append((-len(folders_of(image.disk)), path, image))
    for _, path, image in sorted(found, key=lambda each: each[:2]):
        manifest, saved = path / MANIFEST, over.saved_names(path)
        used = max(read_at(image.disk), changed_at(manifest))
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
    builds = ImageFolder(home, folder, over)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name.startswith("."):
            key = path.name.removeprefix(".").partition(".")[0]
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), changed_at(path), blocked_by, away)
        elif current:
            disk = path / "disk"
            used = max(read_at(disk), changed_at(path))
            blocked_by = partial(builds.blocked_by, path.name, path, None)
            away = partial(builds.remove_unpacked, path.name, path)
            yield PruneCandidate("unpacked disk", path.name, path, size_on_disk(path), used, blocked_by, away)


def _installed(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    """What `pytest_xhyve.preparation.install` has installed, and what an installation that was killed has left."""
    folder = home.find_folder(INSTALLED)
    if folder is None:
        return
    builds = ImageFolder(home, folder, over)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if path.name.startswith("."):
            name = path.name[1:].rpartition(".")[0]
            blocked_by, away = partial(builds.blocked_by, name, None, None), partial(builds.remove, name, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), changed_at(path), blocked_by, away)
        elif current and (path / MANIFEST).exists():
            manifest = path / MANIFEST
            used = max([changed_at(manifest), *(read_at(disk) for disk in path.glob("disk*"))])
            blocked_by = partial(builds.blocked_by, path.name, path, None)
            away = partial(builds.remove_current, path.name, manifest, path)
            yield PruneCandidate(_INSTALLED, path.name, path, size_on_disk(path), used, blocked_by, away)


def _pulled(home: Home, over: LayersOver, *, current: bool) -> Iterator[PruneCandidate]:
    """What `pytest_xhyve.images.pulled` has downloaded: the current files, earlier ones, and parts."""
    folder = home.find_folder(PULLED)
    if folder is None:
        return
    builds = ImageFolder(home, folder, over)
    used = current_folders(home.path)
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        key = path.name.removeprefix(".").partition("-")[0]
        if path.name.startswith("."):
            blocked_by, away = partial(builds.blocked_by, key, None, None), partial(builds.remove, key, path)
            yield PruneCandidate("leftover", path.name, path, size_on_disk(path), changed_at(path), blocked_by, away)
        elif current or path not in used:
            blocked_by, away = partial(builds.blocked_by, key, path, None), partial(builds.remove_unpacked, key, path)
            shown = used.get(path, path.name)
            yield PruneCandidate("pulled disk", shown, path, size_on_disk(path), changed_at(path), blocked_by, away)


def _digests(home: Home, latest: float) -> Iterator[PruneCandidate]:
    """The digests of files that do not exist any more, as one candidate: there are many, and each is small."""
    folder = home.find_folder("checked")
    if folder is None:
        return
    stale = [path for path in folder.glob("*.json") if _is_stale(path) and changed_at(path) <= latest]
    # It takes a moment to write one, so that an old one is that of a process that was killed.
    halves = [path for path in folder.glob("*.new") if changed_at(path) < min(latest, time.time() - _HALF_SECONDS)]
    if not stale and not halves:
        return
    files = halves + [file for path in stale for file in (path, path.with_suffix(".lock")) if file.exists()]

    def away() -> bool:
        for path in stale:
            if _is_stale(path):
                # No process waits for the lock of a file that does not exist.
                path.unlink(missing_ok=True)
                path.with_suffix(".lock").unlink(missing_ok=True)
        for path in halves:
            path.unlink(missing_ok=True)
        return True

    size = sum(size_on_disk(file) for file in files)
    used = max(changed_at(path) for path in [*stale, *halves])
    yield PruneCandidate("digests", f"{len(stale)} of deleted files", folder, size, used, lambda: "", away)


def _is_stale(path: Path) -> bool:
    """Whether the digest at *path* is that of a deleted file, or does not name its file."""
    try:
        return not Path(json.loads(path.read_text())["path"]).exists()
    except (ValueError, KeyError, TypeError):
        return True
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _explain_os_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise XhyveError(f"cannot read {error.filename or home.path}: {error.strerror}") from error
