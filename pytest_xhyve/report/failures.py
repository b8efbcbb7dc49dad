"""The folder of bundles: save the guests of failed tests in it, within its limits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pytest_xhyve.formats.bundle_file import DamagedBundle, read_about
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.model.saved_failure import SavedFailure
from pytest_xhyve.model.values import FailuresLimit
from pytest_xhyve.report.artifacts import folder_name

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_SUFFIX = ".xhyve"
_LOCK = ".lock"
_LOCK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A bundle in the folder.

    Attributes:
        path: its file.
        size: its size in bytes.
        run: the run that saved it.
        error: the error of its test, in one line.
        time: when the test failed.
    """

    path: Path
    size: int
    run: str
    error: str
    time: float


class FailuresFolder:
    """The bundles in *folder*, which all workers of a run share.

    Args:
        folder: created if it is missing.
        limit: how many bundles there may be, and how much they may take.
        checked: the folder of remembered digests.
        with_images: whether bundles get the files of the guests' images, too.
    """

    def __init__(self, folder: Path, limit: FailuresLimit, checked: Path, *, with_images: bool = False) -> None:
        self._with_images = with_images
        self._folder = folder
        self._limit = limit
        self._checked = checked

    def save(self, failure: Failure, guests: Sequence[Guest]) -> SavedFailure | None:
        """Save *guests* of the failed test; then remove the least useful bundles beyond the limits.

        Returns:
            the bundle; None if it would be the least useful one beyond the limits.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
            XhyveError: a guest cannot be saved.
        """
        # Few runs save a failure.
        from pytest_xhyve.templates.saving import save_bundle  # noqa: PLC0415

        self._create()
        path = self._folder / f"{folder_name(failure.test)}{_SUFFIX}"
        new = _Bundle(path, 0, failure.run, failure.error, failure.time)
        others = [bundle for bundle in self._find() if bundle.path != path]
        if len(others) >= self._limit.number and rank([*others, new])[0] == new:
            return None
        begin = monotonic()
        size = save_bundle(path, failure, guests, self._checked, with_images=self._with_images)
        # The bundle is there; if another run holds the lock too long, the next one that is saved makes room.
        with suppress(Timeout):
            self._prune()
        if not path.exists():
            return None
        names = tuple(guest.name for guest in guests)
        return SavedFailure(failure.test, str(path), size, names, monotonic() - begin)

    def remove(self, saved: SavedFailure) -> None:
        """Remove a bundle: its test has passed after all."""
        Path(saved.path).unlink(missing_ok=True)

    def _create(self) -> None:
        # Bundles hold a guest's memory, with all its secrets.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = self._folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def _find(self) -> list[_Bundle]:
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(DamagedBundle, OSError, KeyError, TypeError, ValueError):
                about = read_about(path)["failure"]
                size = path.stat().st_size
                found.append(_Bundle(path, size, str(about["run"]), str(about["error"]), float(about["time"])))
        return found

    def _prune(self) -> None:
        """Remove the least useful bundles until the others are within the limits."""
        with FileLock(self._folder / _LOCK, timeout=_LOCK_SECONDS):
            bundles = rank(self._find())
            while bundles and (
                len(bundles) > self._limit.number or sum(bundle.size for bundle in bundles) > self._limit.size
            ):
                bundles.pop(0).path.unlink(missing_ok=True)


def rank(bundles: Sequence[_Bundle]) -> list[_Bundle]:
    """*bundles*, the least useful first.

    These are those of earlier runs, the oldest first; then those with an error that an earlier test of the run has had,
    the last one first; then the others, the last one first: the first failure often causes the next ones.
    """
    last = max(bundles, key=lambda bundle: bundle.time).run if bundles else ""
    earlier = sorted((bundle for bundle in bundles if bundle.run != last), key=lambda bundle: bundle.time)
    own = sorted((bundle for bundle in bundles if bundle.run == last), key=lambda bundle: bundle.time)
    seen: set[str] = set()
    first: list[_Bundle] = []
    again: list[_Bundle] = []
    for bundle in own:
        (again if bundle.error in seen else first).append(bundle)
        seen.add(bundle.error)
    return [*earlier, *reversed(again), *reversed(first)]
