"""Guests that are left running when their run is over, for somebody to log in to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_xhyve.guest.evidence import collect_evidence
from pytest_xhyve.host import runs
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import BootTimeout, ConnectionFailed, LeaseNotFound, XhyveError
from pytest_xhyve.model.kept import Kept

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
        report: gets a line when one is given up.
    """

    def __init__(
        self, runs_folder: Path, when: str, holds_failed: bool, run: str, report: Callable[[str], None]
    ) -> None:
        self._runs = runs_folder
        self._keeps = when != "never"
        self._holds_failed = holds_failed
        self._run = run
        self._report = report
        self.kept: list[Kept] = []

    def folder_for(self, folder: Path) -> Path:
        """*folder*, or another one where a guest was kept in that: the next of its name may be wanted all the same."""
        taken = {Path(kept.console).parent for kept in self.kept}
        folders = chain([folder], (folder.with_name(f"{folder.name}~{number}") for number in count(2)))
        return next(free for free in folders if free not in taken)

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
        self.kept.append(kept)
        return kept

    def did_not_come_up(self, name: str, by: str, guest: Guest, process: GuardedProcess, error: XhyveError) -> None:
        """Note in *error* what is known of *guest*, and keep it where that was asked for and may help.

        Args:
            name: what the guest is called; *guest* may be the template that it needs.
            by: who wanted it.
            guest: that did not boot.
            process: its place in the guardian's care.
            error: why.
        """
        error.evidence = replace(collect_evidence(guest), name=name)
        may_come_up = isinstance(error, BootTimeout | LeaseNotFound | ConnectionFailed)
        if may_come_up and (self._keeps or self._holds_failed):
            with contextlib.suppress(XhyveError):
                self.keep(process, guest, by, held=not self._keeps)

    def give_up_last(self) -> bool:
        """End the guest that this run has kept last, so that those of its first failures stay longest; False for none.

        It may be another worker's.
        """
        ours = [guest for guest in runs.live_guests(self._runs) if guest.kept and guest.kept.get("run") == self._run]
        for guest in sorted(ours, key=lambda guest: guest.kept["since"] if guest.kept else 0, reverse=True):
            if runs.end_kept(guest):
                self._report(f"gave up the guest {guest.name}, which was kept: a test needs its slot")
                return True
        return False
