"""Kept guests: they run on after their run, so that a person can log in to them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.guest.events import Events
from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import BootTimeout, ConnectionFailed, LeaseNotFound, XhyveError
from pytest_xhyve.model.kept import Kept
from pytest_xhyve.model.values import KeepMode

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


class KeptGuests:
    """The kept guests of one process.

    Args:
        runs_folder: contains the folders of all runs.
        when: the value of ``--xhyve-keep``.
        hold_failed: whether a guest that did not boot runs on until this process ends, even if *when* is ``never``.
        run: an id that all processes of one run of pytest share, and no other run has.
        events: gets each kept guest, and a line when one is removed.
    """

    def __init__(self, runs_folder: Path, when: KeepMode, hold_failed: bool, run: str, events: Events) -> None:
        self._runs = runs_folder
        self._keeps = when != "never"
        self._hold_failed = hold_failed
        self._run = run
        self._events = events
        self._kept_in: set[Path] = set()

    def folder_for(self, folder: Path) -> Path:
        """*folder*, or if a kept guest of the same name is in it, ``FOLDER~2``, ``FOLDER~3`` and so on."""
        folders = chain([folder], (folder.with_name(f"{folder.name}~{number}") for number in count(2)))
        return next(free for free in folders if free not in self._kept_in)

    def keep(self, process: GuardedProcess, guest: Guest, kept_for: str, *, held: bool = False) -> Kept:
        """Let *guest* run on after this process, which may then close what it holds of the guest.

        Args:
            process: the guarded process of its hypervisor.
            guest: a guest whose hypervisor runs.
            kept_for: the test, class or module that it is kept for.
            held: whether the guest still ends with this process.

        Raises:
            XhyveError: the guardian has died, and the guest with it.
        """
        ssh: tuple[str, ...] = ()
        # The guest may have no address yet, or the disk is full; its console is still readable.
        with contextlib.suppress(XhyveError, OSError):
            ssh = guest.ssh_command()
        process.keep({"kept": {"by": kept_for, "since": time.time(), "run": self._run}, "ssh": ssh}, held=held)
        kept = Kept(guest.name, guest.image.name, kept_for, ssh, str(guest.console.path))
        self._kept_in.add(guest.console.path.parent)
        self._events.kept(kept)
        return kept

    def hold_failed(self, process: GuardedProcess, guest: Guest, kept_for: str, error: XhyveError) -> None:
        """Let *guest*, which did not boot in time, run on if the user asked for that and it may still boot."""
        may_boot = isinstance(error, BootTimeout | LeaseNotFound | ConnectionFailed)
        if may_boot and (self._keeps or self._hold_failed):
            with contextlib.suppress(XhyveError):
                self.keep(process, guest, kept_for, held=not self._keeps)

    def release_newest(self) -> bool:
        """Remove the guest that this run kept last, so that those of the first failures stay; False if there is none.

        The guest may be another worker's.
        """
        ours = [guest for guest in runs.live_guests(self._runs) if guest.kept and guest.kept.get("run") == self._run]
        for guest in sorted(ours, key=lambda guest: guest.kept["since"] if guest.kept else 0, reverse=True):
            if runs.end_kept(guest):
                self._events.progress(f"removed the kept guest {guest.name}: a test needs its slot")
                return True
        return False


class HoldFailed(Events):
    """Adds diagnostics to the error of a failed boot, and lets the guest run on if that is wanted and may help.

    Args:
        kept_guests: the kept guests of this process.
        name: the name of the requested guest; the one that fails may be its template's.
        requested_by: the test that requested it.
    """

    def __init__(self, kept_guests: KeptGuests, name: str, requested_by: str) -> None:
        self._kept_guests = kept_guests
        self._name = name
        self._requested_by = requested_by

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        error.evidence = replace(collect_evidence(guest), name=self._name)
        self._kept_guests.hold_failed(guest._instance.process, guest, self._requested_by, error)
