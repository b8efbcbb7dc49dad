"""The way in which a guest comes up that is restored from a template."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE
from pytest_xhyve.hypervisors.base import SnapshotMachine, Snapshotter
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.templates.identity import IdentityError, set_identity
from pytest_xhyve.templates.store import Template


class RestoreFailed(XhyveError):
    """A guest was restored, and cannot be used."""


class Restore:
    """See `pytest_xhyve.guest.power.Start`.

    Args:
        snapshotter: the hypervisor's.
        machine: with its own identity and its own disk, cloned from the template's.
        process: its place in the guardian's care.
        template: what it is restored from.
        timeout: seconds that the agent may take to answer.
        record: where the machine can be saved again; None for one that need not be.
    """

    phase = "restore"

    def __init__(
        self,
        snapshotter: Snapshotter,
        machine: Machine,
        process: GuardedProcess,
        template: Template,
        timeout: float,
        record: Path | None = None,
    ) -> None:
        self._saver = snapshotter
        self._machine = machine
        self._ward = process
        self._template = template
        self._timeout = timeout
        self._record = record
        self._vm: SnapshotMachine | None = None

    @contextmanager
    def running(self) -> Iterator[SnapshotMachine]:
        source = self._template.folder
        # What the guest said while it booted.
        shutil.copyfile(source / CONSOLE, self._ward.folder / CONSOLE)
        if self._record is None:
            starting = self._saver.restoring(self._machine, self._ward, source)
        else:
            starting = self._saver.recording(self._machine, self._ward, self._record, source)
        with starting as vm:
            self._vm = vm
            yield vm

    def make_ready(self) -> None:
        assert self._vm is not None
        self._vm.restore()
        mac = self._machine.nics[0].mac
        assert mac is not None
        try:
            set_identity(
                self._vm.agent,
                self._template.prepared,
                name=self._machine.name,
                machine_id=self._machine.uuid.hex,
                mac=mac,
                timeout=self._timeout,
            )
        except IdentityError as error:
            raise RestoreFailed(
                f"{self._machine.name} was restored, and cannot be told from others: {error}"
            ) from error
