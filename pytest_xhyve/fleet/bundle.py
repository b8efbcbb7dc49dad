"""An open bundle: the saved guests of a failed test."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.formats.bundle_file import BundleReader, DamagedBundle
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.failure import Failure
from pytest_xhyve.templates.image_files import member
from pytest_xhyve.templates.saved_guest import SavedGuest
from pytest_xhyve.templates.saved_lan import SavedLan


class BundleError(XhyveError):
    """A bundle cannot be used."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle.

    Attributes:
        path: its file.
        failure: the test that failed.
        guests: the saved guests.
        lans: the LANs between them.
        image_files: the SHA-256 of each file of their images that the bundle has.
        reader: reads its members.
    """

    path: Path
    failure: Failure
    guests: tuple[SavedGuest, ...]
    lans: tuple[SavedLan, ...]
    image_files: tuple[str, ...]
    reader: BundleReader

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Bundle]:
        """Open the bundle at *path*, and check that it is complete.

        Raises:
            BundleError: it cannot be read, or is damaged.
        """
        with explained(path), BundleReader.open(path) as reader:
            try:
                failure = Failure.from_dict(reader.about["failure"])
                guests = tuple(map(SavedGuest.from_dict, reader.about["guests"]))
                lans = tuple(map(SavedLan.from_dict, reader.about.get("lans", ())))
                files = tuple(map(str, reader.about.get("image_files", ())))
            except (KeyError, TypeError, ValueError) as error:
                raise DamagedBundle("is damaged: its description is not valid") from error
            wanted = {name for guest in guests for name in guest.members()}
            missing = wanted.union(map(member, range(len(files)))) - set(reader.names())
            if missing:
                raise DamagedBundle(f"is cut off: {min(missing)} is missing")
            if len({guest.key for guest in guests}) < len(guests):
                raise DamagedBundle("is damaged: two guests have one name")
            if any(card.lan >= len(lans) for guest in guests if guest.place for card in guest.place.cards):
                raise DamagedBundle("is damaged: a guest is on a LAN that it does not have")
            yield cls(path, failure, guests, lans, files, reader)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error about the bundle at *path* into one for people."""
    try:
        yield
    except DamagedBundle as error:
        raise BundleError(f"{path} {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BundleError(f"cannot read the bundle {path}: {error.strerror or error}") from error
