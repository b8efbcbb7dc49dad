"""The guests of this host: list the running ones, and remove those whose owner is dead."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.host import runs
from pytest_xhyve.host.home import Home
from pytest_xhyve.host.runs import GuestRecord
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.values import suggest

_ROW = "{:20} {:16} {:10} {:>8} {:>8} {:>8}  {}"


@dataclass(frozen=True, slots=True)
class Reaped:
    """What `reap` removed.

    Attributes:
        runs: the folders of dead runs.
        guests: the kept guests.
    """

    runs: Sequence[Path]
    guests: Sequence[GuestRecord]

    def as_json(self) -> dict[str, Any]:
        """The data for JSON."""
        return {"removed": [str(run) for run in self.runs], "guests": [guest.name for guest in self.guests]}

    def lines(self) -> Iterator[str]:
        """The lines for people."""
        yield from (f"removed {run}" for run in self.runs)
        yield from (f"removed {guest.name}, {_for_whom(guest)}" for guest in self.guests)


def find_running(home: Home) -> list[GuestRecord]:
    """The running guests in *home*; nothing is created there.

    Raises:
        XhyveError: the cache folder cannot be read.
    """
    folder = home.find_folder("runs")
    return [] if folder is None else runs.live_guests(folder)


def find_guest(wanted: str, home: Home) -> GuestRecord:
    """The running guest whose name or UUID is *wanted*.

    Raises:
        XhyveError: there is none, or more than one.
    """
    running = find_running(home)
    found = [guest for guest in running if wanted in (guest.name, guest.uuid)]
    if not found:
        names = tuple(dict.fromkeys(guest.name for guest in running))
        raise XhyveError(
            f"no guest named {wanted!r} is running{suggest(wanted, names)}\n"
            f"  running guests: {', '.join(names) or 'none'}"
        )
    if len(found) > 1:
        uuids = "\n".join(f"    {guest.uuid} (process {guest.pid})" for guest in found)
        raise XhyveError(f"{len(found)} guests named {wanted!r} are running; give the UUID of one:\n{uuids}")
    return found[0]


def tabulate(guests: Sequence[GuestRecord]) -> Iterator[str]:
    """The table of *guests*; the line below a kept guest shows how to log in."""
    yield _ROW.format("NAME", "IMAGE", "HYPERVISOR", "PID", "OWNER", "AGE", "UUID")
    for guest in guests:
        age = f"{time.time() - guest.started:.0f} s"
        yield _ROW.format(guest.name, guest.image, guest.hypervisor, guest.pid, guest.owner, age, guest.uuid)
        if guest.kept:
            yield f"  {_for_whom(guest)}: {shlex.join(guest.ssh) or '(the guest has no address)'}"


def reap(home: Home) -> Reaped:
    """Remove what dead runs left in *home*, and the kept guests whose owner is dead.

    Raises:
        XhyveError: the cache folder cannot be read.
    """
    folder = home.find_folder("runs")
    if folder is None:
        return Reaped((), ())
    return Reaped(runs.reap(folder), runs.reap_kept(folder))


def _for_whom(guest: GuestRecord) -> str:
    return f"kept for {guest.kept['by']}" if guest.kept else ""
