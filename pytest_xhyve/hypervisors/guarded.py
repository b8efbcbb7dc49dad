"""The part that the machines of all hypervisors share: each is a process of the guardian."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import CONSOLE
from pytest_xhyve.hypervisors.block import BlockLayer
from pytest_xhyve.model.errors import NotSupported


class GuardedMachine:
    """The part of a `pytest_xhyve.hypervisors.base.VirtualMachine` that depends only on its process."""

    def __init__(self, process: GuardedProcess) -> None:
        self._process = process

    @property
    def console_log(self) -> Path:
        return self._process.folder / CONSOLE

    def exit_status(self) -> int | None:
        return self._process.poll()

    def wait_for_exit(self, timeout: float) -> int | None:
        return self._process.wait(timeout)

    def explain_pause(self) -> str | None:
        # Only some hypervisors can pause by themselves.
        return None

    @property
    def block(self) -> BlockLayer | None:
        # Only some hypervisors can change the disks of a running machine.
        return None

    @property
    def lan_ends(self) -> Sequence[CableEnd]:
        # Only some hypervisors have cards for LANs.
        return ()

    def set_lan_link(self, number: int, *, up: bool) -> None:  # noqa: ARG002
        raise NotSupported("this hypervisor has no network cards for LANs\n  use --xhyve-hypervisor=qemu")

    def is_lan_cable_pulled(self, number: int) -> bool:  # noqa: ARG002
        return False

    def is_paused(self) -> bool:
        # A hypervisor that only stops its process does not report that.
        return False

    @property
    def has_agent(self) -> bool:
        return False

    def save_state(self, file: Path) -> None:  # noqa: ARG002
        raise NotSupported("this hypervisor cannot save a running machine\n  use --xhyve-hypervisor=qemu")

    def load_state(self, file: Path) -> None:  # noqa: ARG002
        raise NotSupported("this hypervisor cannot load a saved machine\n  use --xhyve-hypervisor=qemu")

    def serve_debugger(self) -> Path:
        raise NotSupported("this hypervisor serves no debugger\n  use --xhyve-hypervisor=qemu")

    def output(self) -> str:
        return self._process.output()
