"""Guests that are left running when their run is over, for somebody to log in to."""

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


class Keeping:
    """The guests of one process that are left running.

    Args:
        runs_folder: has the folders of all runs.
        when: as ``--xhyve-keep`` has it.
        holds_failed: whether a guest that did not boot is left as it is as long as this process lives, though none is
            to be kept.
        run: what all processes of one run of pytest have in common, and no other run.
        events: gets each guest that stays, and a line when one is given up.
    """

    def __init__(self, runs_folder: Path, when: KeepMode, holds_failed: bool, run: str, events: Events) -> None:
        self._runs = runs_folder
        self._keeps = when != "never"
        self._holds_failed = holds_failed
        self._run = run
        self._events = events
        self._kept_in: set[Path] = set()

    def folder_for(self, folder: Path) -> Path:
        """*folder*, or another one where a guest was kept in that: the next of its name may be wanted all the same."""
        folders = chain([folder], (folder.with_name(f"{folder.name}~{number}") for number in count(2)))
        return next(free for free in folders if free not in self._kept_in)

    def keep(self, process: GuardedProcess, guest: Guest, by: str, *, held: bool = False) -> Kept:
        """Let *guest* outlive this process; what this process has of it can be given up then.

        Args:
            process: its place in the guardian's care.
            guest: whose hypervisor runs.
            by: what it is kept for.
            held: whether it ends with this process all the same.

        Raises:
            XhyveError: the guardian is gone, and the guest with it.
        """
        ssh: tuple[str, ...] = ()
        # It may have no address yet, or the disk be full; its console still tells of it.
        with contextlib.suppress(XhyveError, OSError):
            ssh = guest.ssh_command()
        process.keep({"kept": {"by": by, "since": time.time(), "run": self._run}, "ssh": ssh}, held=held)
        kept = Kept(guest.name, guest.image.name, by, ssh, str(guest.console.path))
        self._kept_in.add(guest.console.path.parent)
        self._events.kept(kept)
        return kept

    def hold_failed(self, process: GuardedProcess, guest: Guest, by: str, error: XhyveError) -> None:
        """Leave *guest*, which did not boot, running, if that was asked for and the guest may boot after all."""
        may_boot = isinstance(error, BootTimeout | LeaseNotFound | ConnectionFailed)
        if may_boot and (self._keeps or self._holds_failed):
            with contextlib.suppress(XhyveError):
                self.keep(process, guest, by, held=not self._keeps)

    def give_up_last(self) -> bool:
        """End the guest that this run has kept last, so that those of its first failures stay longest; False for none.

        It may be another worker's.
        """
        ours = [guest for guest in runs.live_guests(self._runs) if guest.kept and guest.kept.get("run") == self._run]
        for guest in sorted(ours, key=lambda guest: guest.kept["since"] if guest.kept else 0, reverse=True):
            if runs.end_kept(guest):
                self._events.progress(f"gave up the guest {guest.name}, which was kept: a test needs its slot")
                return True
        return False


class HoldFailed(Events):
    """Adds to the error of a failed boot what is known of the guest, and leaves the guest running if that helps.

    Args:
        keeping: the process's.
        name: what the guest is called that was asked for; the one that fails may be its template.
        requested_by: the test that asked for it.
    """

    def __init__(self, keeping: Keeping, name: str, requested_by: str) -> None:
        self._keeping = keeping
        self._name = name
        self._requested_by = requested_by

    def boot_failed(self, guest: Guest, error: XhyveError) -> None:
        error.evidence = replace(collect_evidence(guest), name=self._name)
        self._keeping.hold_failed(guest._instance.process, guest, self._requested_by, error)
