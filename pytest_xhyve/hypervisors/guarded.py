"""What the machines of all hypervisors have in common: each is a process in the guardian's care."""

from __future__ import annotations

from pathlib import Path

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE


class GuardedMachine:
    """The part of a `pytest_xhyve.hypervisors.base.VirtualMachine` that its process tells."""

    def __init__(self, process: GuardedProcess) -> None:
        self._ward = process

    @property
    def console_log(self) -> Path:
        return self._ward.folder / CONSOLE

    def exit_status(self) -> int | None:
        return self._ward.poll()

    def wait_for_exit(self, timeout: float) -> int | None:
        return self._ward.wait(timeout)

    def explain_pause(self) -> str | None:
        # A program that only ever ends.
        return None

    def output(self) -> str:
        return self._ward.output()
