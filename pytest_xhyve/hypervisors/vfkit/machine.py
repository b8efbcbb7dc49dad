"""A machine that runs under vfkit: its console, its states, its exit."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.leases import Lease
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.hypervisors.keyboard import type_on_console
from pytest_xhyve.hypervisors.leased import LeasedMachine
from pytest_xhyve.hypervisors.vfkit.argv import MAX_SOCKET_PATH, has_rest, rest_socket
from pytest_xhyve.hypervisors.vfkit.rest import State, change_state
from pytest_xhyve.model.errors import HypervisorExited, NotSupported
from pytest_xhyve.model.machine import Machine


class VfkitMachine(LeasedMachine):
    """A running machine; see `pytest_xhyve.hypervisors.base.VirtualMachine`.

    Args:
        machine: the machine's description.
        process: its process.
        terminal: the host's end of the terminal that is vfkit's standard input.
        before: the leases from before the start.
        lan_ends: see `pytest_xhyve.hypervisors.base.VirtualMachine.lan_ends`.
    """

    def __init__(
        self,
        machine: Machine,
        process: GuardedProcess,
        terminal: int,
        before: Sequence[Lease],
        lan_ends: Sequence[CableEnd],
    ) -> None:
        super().__init__(machine.name, process, before)
        self._mac = machine.nics[0].mac if machine.nics else None
        self._terminal = terminal
        self._lan_ends = tuple(lan_ends)
        self._paused = False

    @property
    def mac(self) -> str | None:
        return self._mac

    def find_mac(self, records: Sequence[Lease]) -> str | None:  # noqa: ARG002
        return self._mac

    def send_to_console(self, data: bytes) -> None:
        type_on_console(self._terminal, data, self.name)

    def exit_reason(self) -> ExitReason | None:
        status = self.exit_status()
        if status is None:
            return None
        if status < 0:
            return ExitReason.KILLED
        # A guest's restart does not end vfkit (cmd/vfkit/main.go).
        return ExitReason.POWERED_OFF if status == 0 else ExitReason.FAILED

    @property
    def lan_ends(self) -> Sequence[CableEnd]:
        return self._lan_ends

    def set_lan_link(self, number: int, *, up: bool) -> None:  # noqa: ARG002
        if not up:
            raise NotSupported(
                f"vfkit cannot pull a cable out of guest {self.name} while it runs\n"
                "  cut its links with guests.partition(), which leaves it the carrier, or use --xhyve-hypervisor=qemu"
            )

    def screenshot(self) -> bytes:
        raise NotSupported("vfkit shows a screen only in a window of its own; use QEMU")

    def pause(self) -> None:
        self._change_state("Pause")
        self._paused = True

    def resume(self) -> None:
        self._change_state("Resume")
        self._paused = False

    def is_paused(self) -> bool:
        return self._paused

    def press_power_button(self) -> None:
        if has_rest(self._process.folder):
            self._change_state("Stop")
        else:
            # This presses it, too, but cuts the power five seconds later.
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill("vfkit")

    def _change_state(self, state: State) -> None:
        if self.exit_status() is not None:
            raise HypervisorExited(f"guest {self.name} is not running; guest.start() starts it again")
        socket = rest_socket(self._process.folder)
        if not has_rest(self._process.folder):
            raise NotSupported(
                f"vfkit cannot pause guest {self.name}: the path of its socket has {len(os.fsencode(socket))} bytes, "
                f"but macOS allows {MAX_SOCKET_PATH}: {socket}\n"
                "  set PYTEST_XHYVE_HOME to a folder with a shorter path, or use QEMU"
            )
        change_state(socket, state)
