"""A machine that runs under QEMU."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.home import about_room
from pytest_xhyve.hypervisors.base import Endpoint, ExitReason
from pytest_xhyve.hypervisors.guarded import GuardedMachine
from pytest_xhyve.hypervisors.qemu import migration
from pytest_xhyve.hypervisors.qemu.block import QemuBlockLayer
from pytest_xhyve.hypervisors.qemu.gdb import GdbError
from pytest_xhyve.hypervisors.qemu.monitor import connected, dump_screen
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed, QmpError
from pytest_xhyve.model.errors import BootFailed, HypervisorExited, NotSupported, XhyveError
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.values import PortProtocol

LOOPBACK = "127.0.0.1"
# A disk with less free space counts as full.
_FULL = 16 << 20
_END_SECONDS = 10.0
_DEBUGGER = "gdb.sock"
_TYPE_SECONDS = 10.0
# TCP[HOST_FORWARD]  12       127.0.0.1 43211       10.0.2.15    22     0     0   (info usernet)
_CONNECTION = r"\[(\w+)\]\s+-?\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)"


@dataclass(frozen=True, slots=True)
class Wires:
    """The host's ends of the sockets to one QEMU.

    Attributes:
        qmp: the client of its control protocol.
        lan_ends: see `pytest_xhyve.hypervisors.base.VirtualMachine.lan_ends`.
    """

    qmp: QmpClient
    lan_ends: tuple[CableEnd, ...]


def lan_card(number: int) -> str:
    """QEMU's id of the card *number* for LANs."""
    return f"lan-card{number}"


class QemuMachine(GuardedMachine):
    """A running machine; see `pytest_xhyve.hypervisors.base.VirtualMachine`."""

    def __init__(self, machine: Machine, process: GuardedProcess, wires: Wires) -> None:
        super().__init__(process)
        self._machine = machine
        self._qmp = wires.qmp
        self._lan_ends = wires.lan_ends
        self._forwarded: dict[tuple[PortProtocol, int], Endpoint] = {}
        self._pulled: set[int] = set()
        self._lock = threading.Lock()
        self._block = QemuBlockLayer(self._execute, machine.unplugged)

    @property
    def mac(self) -> str | None:
        return self._machine.nics[0].mac

    def send_to_console(self, data: bytes) -> None:
        try:
            with connected(self._process.folder, "console.sock") as console:
                console.settimeout(_TYPE_SECONDS)
                console.sendall(data)
        except TimeoutError as error:
            raise XhyveError(
                f"guest {self._machine.name} does not take what is typed on its console: nothing there reads it, or "
                "another program is attached to it"
            ) from error
        except OSError as error:
            raise HypervisorExited(f"cannot write to the console of guest {self._machine.name}: {error}") from error

    def find_endpoint(self, port: int) -> Endpoint | None:
        return self._find_forwarded(port, "tcp")

    def forward(self, port: int, protocol: PortProtocol = "tcp") -> Endpoint:
        known = self._find_forwarded(port, protocol)
        if known is not None:
            return known
        # QEMU binds port 0, so that the kernel selects the port: no other program can take it in between.
        output = self._monitor(f"hostfwd_add net0 {protocol}:{LOOPBACK}:0-:{port}").strip()
        endpoint = self._find_forwarded(port, protocol)
        if endpoint is None:
            raise XhyveError(f"QEMU did not forward port {port} ({protocol}): {output or '(no output)'}")
        return endpoint

    def _find_forwarded(self, port: int, protocol: PortProtocol) -> Endpoint | None:
        with self._lock:
            if (protocol, port) not in self._forwarded:
                for state, host, number, _, guest_port in self._connections(protocol):
                    if state == "HOST_FORWARD":
                        self._forwarded[protocol, int(guest_port)] = Endpoint(host, int(number))
            return self._forwarded.get((protocol, port))

    def count_accepted(self, port: int) -> int | None:
        endpoint = self.find_endpoint(port)
        accepted = [int(number) for state, _, number, _, _ in self._connections() if state == "ESTABLISHED"]
        return 0 if endpoint is None else accepted.count(endpoint.port)

    def exit_reason(self) -> ExitReason | None:
        status = self.exit_status()
        if status is None:
            return None
        if status < 0:
            return ExitReason.KILLED
        return ExitReason.FAILED if status else ExitReason.POWERED_OFF

    def explain_missing_address(self) -> str | None:
        return None

    def explain_pause(self) -> str | None:
        try:
            status = self._qmp.execute("query-status")["status"]
        except (QmpClosed, TimeoutError):
            return None
        if status != "io-error":
            return None
        # QEMU pauses the guest if the host's disk is full, until a command resumes it (-drive werror=enospc).
        if self._block.is_recording and shutil.disk_usage(self._process.folder).free > _FULL:
            return "the record of its writes is full\n  give it more room: guest.record_writes(max_size=…)"
        return (
            f"its clone cannot be written to, because no space is left on the host\n{about_room(self._process.folder)}"
        )

    @property
    def block(self) -> QemuBlockLayer:
        return self._block

    @property
    def lan_ends(self) -> Sequence[CableEnd]:
        return self._lan_ends

    def set_lan_link(self, number: int, *, up: bool) -> None:
        self._execute("set_link", name=lan_card(number), up=up)
        (self._pulled.discard if up else self._pulled.add)(number)

    def is_lan_cable_pulled(self, number: int) -> bool:
        return number in self._pulled

    def screenshot(self) -> bytes:
        return dump_screen(self._qmp, self._process.folder, self._machine.name)

    def pause(self) -> None:
        with self._block.noting_own_flushes():
            self._execute("stop")

    def resume(self) -> None:
        self._execute("cont")

    def is_paused(self) -> bool:
        with self._errors("ask about"):
            return bool(self._qmp.execute("query-status")["status"] != "running")

    @property
    def has_agent(self) -> bool:
        return False

    def save_state(self, file: Path) -> None:
        with self._errors("save"):
            migration.save_state(self._qmp, file)

    def load_state(self, file: Path) -> None:
        with self._errors("restore"), file.open("rb") as state:
            migration.load_state(self._qmp, state)

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Turn an error in the block into `HypervisorExited`, with QEMU's output."""
        name = self._machine.name
        try:
            yield
        except QmpClosed as error:
            self.wait_for_exit(_END_SECONDS)
            output = "; ".join(self.output().splitlines()) or "(no output)"
            raise HypervisorExited(f"QEMU exited when asked to {action} {name}: {output}") from error
        except (QmpError, GdbError, TimeoutError) as error:
            raise HypervisorExited(f"QEMU cannot {action} {name}: {error}") from error

    def serve_debugger(self) -> Path:
        # Its path is relative to QEMU's folder, so it is short enough. Only this user can reach it there.
        address = {"type": "unix", "data": {"path": _DEBUGGER}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        self._execute("chardev-add", id="debugger", backend=backend)
        output = self._monitor("gdbserver chardev:debugger").strip()
        if "Could not" in output:
            raise NotSupported(f"QEMU serves no debugger: {output}")
        return self._process.folder / _DEBUGGER

    def press_power_button(self) -> None:
        self._execute("system_powerdown")

    def kill(self) -> None:
        self._process.kill("QEMU")

    def _connections(self, protocol: PortProtocol = "tcp") -> list[tuple[str, ...]]:
        try:
            return re.findall(protocol.upper() + _CONNECTION, self._monitor("info usernet"))
        except HypervisorExited:
            return []

    def _execute(self, command: str, **arguments: Any) -> Any:
        with self._explaining():
            return self._qmp.execute(command, **arguments)

    def _monitor(self, line: str) -> str:
        with self._explaining():
            return self._qmp.monitor(line)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn an error of a command in the block into one of the plugin's.

        Raises:
            HypervisorExited: QEMU has exited.
            BootFailed: QEMU did not answer.
            NotSupported: QEMU refused the command.
        """
        name = self._machine.name
        try:
            yield
        except QmpClosed as error:
            raise HypervisorExited(f"guest {name} is not running; guest.start() starts it again") from error
        except TimeoutError as error:
            raise BootFailed(
                f"the hypervisor of guest {name} did not answer: it hangs, or something has stopped it\n"
                "  guest.kill() and guest.start() boot the guest again"
            ) from error
        except QmpError as error:
            raise NotSupported(f"QEMU refused: {error}") from error
