"""Save a machine under QEMU, and restore other machines from it.

The memory is a file. The machine that is saved shares it. Restored machines map it privately: they read the same pages,
and what they write stays private to them. The state of everything else is a migration stream without that memory (the
capability x-ignore-shared; docs/devel/migration.rst in QEMU's sources).
"""

from __future__ import annotations

import json
import mmap
import platform
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from uuid import UUID

from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.hypervisors.qemu.gdb import GdbError, GdbStub
from pytest_xhyve.hypervisors.qemu.machine import QemuMachine
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed, QmpError
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited, XhyveError
from pytest_xhyve.model.machine import Machine

RAM = "ram"
STATE = "state"
IDENTITY = "identity.json"

_AGENT_FD, _GDB_FD = 11, 12
_CAPABILITY = {"capability": "x-ignore-shared", "state": True}
_ENDED = ("completed", "failed", "cancelled")
_POLL_SECONDS = 0.002
_SAVE_SECONDS = 120.0
_END_SECONDS = 10.0
_GDB_SECONDS = 10.0

# The start of q35's hole for devices, and the address where memory continues (hw/i386/pc_q35.c in QEMU's sources).
_ALL_BELOW, _BELOW, _ABOVE = 0xB000_0000, 0x8000_0000, 1 << 32


class _Qemu(Protocol):
    """The part of `pytest_xhyve.hypervisors.qemu.driver.Qemu` that this module uses."""

    @property
    def info(self) -> HypervisorInfo: ...

    def program_state(self) -> str: ...

    def cpu_options(self, machine: Machine) -> list[str]: ...

    def firmware_state(self, machine: Machine) -> str: ...

    def started(
        self, machine: Machine, process: GuardedProcess, options: Sequence[str] = ..., fds: Mapping[int, int] = ...
    ) -> AbstractContextManager[QmpClient]: ...


class QemuSnapshotter:
    """See `pytest_xhyve.hypervisors.base.Snapshotter`.

    Args:
        qemu: the driver.
    """

    def __init__(self, qemu: _Qemu) -> None:
        self._qemu = qemu

    def depends_on(self, machine: Machine) -> dict[str, str]:
        info = self._qemu.info
        depends = {
            "hypervisor": f"{info.name} {info.version} {self._qemu.program_state()}",
            "computer": " ".join([*self._qemu.cpu_options(machine), self._qemu.firmware_state(machine)]),
        }
        if not info.emulated:
            # The guest knows the features of the host's CPU, and the host's kernel has to load the CPU's state.
            depends["host"] = f"{_host_cpu()} {platform.release()}"
        return depends

    @contextmanager
    def start_recorded(
        self, machine: Machine, process: GuardedProcess, folder: Path, source: Path | None = None
    ) -> Iterator[QemuSnapshotMachine]:
        with self._started(machine, process, folder, shared=True, source=source) as vm:
            yield vm

    @contextmanager
    def start_restored(self, machine: Machine, process: GuardedProcess, folder: Path) -> Iterator[QemuSnapshotMachine]:
        with self._started(machine, process, folder, shared=False, source=folder) as vm:
            yield vm

    @contextmanager
    def _started(
        self, machine: Machine, process: GuardedProcess, folder: Path, *, shared: bool, source: Path | None
    ) -> Iterator[QemuSnapshotMachine]:
        with ExitStack() as stack:
            agent, agent_end = map(stack.enter_context, socket.socketpair())
            debugger, debugger_end = map(stack.enter_context, socket.socketpair())
            fds = {_AGENT_FD: agent_end.fileno(), _GDB_FD: debugger_end.fileno()}
            # fmt: off
            options = [
                "-object", f"memory-backend-file,id=ram,size={machine.memory >> 20}M,share={'on' if shared else 'off'},"
                f"mem-path={str(folder / RAM).replace(',', ',,')}",
                "-machine", "memory-backend=ram",
                "-chardev", f"socket,id=agent,fd={_AGENT_FD}",
                "-serial", "chardev:agent",
                "-chardev", f"socket,id=gdb,fd={_GDB_FD}",
            ]
            # fmt: on
            if source is not None:
                options += ["-S", "-incoming", "defer"]
            if shared and source is not None:
                clone_file(source / RAM, folder / RAM)
            qmp = stack.enter_context(self._qemu.started(machine, process, options, fds))
            for end in (agent_end, debugger_end):
                end.close()
            vm = QemuSnapshotMachine(machine, process, qmp, agent, debugger, folder, source)
            vm.negotiate_capabilities()
            yield vm


class QemuSnapshotMachine(QemuMachine):
    """See `pytest_xhyve.hypervisors.base.SnapshotMachine`."""

    def __init__(
        self,
        machine: Machine,
        process: GuardedProcess,
        qmp: QmpClient,
        agent: socket.socket,
        debugger: socket.socket,
        folder: Path,
        source: Path | None,
    ) -> None:
        super().__init__(machine, process, qmp)
        self._debugger = debugger
        self._folder = folder
        self._source = source
        self.agent = agent

    def negotiate_capabilities(self) -> None:
        """Let QEMU leave shared memory out of the migration stream."""
        with self._errors("prepare"):
            self._qmp.execute("migrate-set-capabilities", capabilities=[_CAPABILITY])

    def restore(self) -> None:
        assert self._source is not None
        with self._errors("restore"):
            saved = json.loads((self._source / IDENTITY).read_text())
            with self._state_to_load(saved["mac"]) as state:
                self._qmp.send_file("state", state.fileno())
            self._qmp.execute("migrate-incoming", uri="fd:state")
            end = monotonic() + _SAVE_SECONDS
            while self._qmp.execute("query-status")["status"] == "inmigrate":
                if monotonic() > end:
                    raise QmpError(f"it did not load the saved state within {_SAVE_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
            self._write_uuid(saved)
            self._qmp.execute("cont")

    def save(self, *, as_itself: bool = False) -> None:
        with self._errors("save"):
            # Stop first, so that the disk and the clock match the rest of the state.
            self._qmp.execute("stop")
            with (self._folder / STATE).open("wb") as state:
                self._qmp.send_file("state", state.fileno())
            self._qmp.execute("migrate", uri="fd:state")
            end = monotonic() + _SAVE_SECONDS
            while (done := self._qmp.execute("query-migrate"))["status"] not in _ENDED:
                if monotonic() > end:
                    raise XhyveError(f"QEMU did not save guest {self._machine.name} within {_SAVE_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
            if done["status"] != "completed":
                raise QmpError(done.get("error-desc") or self.output() or "it gave no reason")
            self._qmp.execute("quit")
        if self.wait_for_exit(_END_SECONDS) is None:
            self.kill()
        uuid = self._machine.uuid
        forms = {} if as_itself else _forms(uuid)
        places = {form: _find(self._folder / RAM, content) for form, content in forms.items()}
        identity = {"uuid": str(uuid), "mac": self._machine.nics[0].mac, **places}
        (self._folder / IDENTITY).write_text(json.dumps(identity))

    @contextmanager
    def _state_to_load(self, mac: str) -> Iterator[IO[bytes]]:
        """The saved state, with this machine's Ethernet address instead of *mac*.

        Not only the card contains the address. The DHCP server of QEMU's user-mode network also remembers which
        Ethernet address has its first IP address, to which it forwards ports. It would give a guest with another
        Ethernet address the second IP address.
        """
        assert self._source is not None
        ours = self._machine.nics[0].mac
        assert ours is not None
        with tempfile.TemporaryFile(dir=self._process.folder) as state:
            state.write((self._source / STATE).read_bytes().replace(_as_bytes(mac), _as_bytes(ours)))
            state.flush()
            state.seek(0)
            yield state

    def _write_uuid(self, saved: dict[str, Any]) -> None:
        """Write this machine's UUID over the saved machine's in memory; a program in the guest cannot do that."""
        if saved["uuid"] == str(self._machine.uuid):
            return
        output = self._qmp.monitor("gdbserver chardev:gdb")
        if "Could not" in output:
            raise GdbError(output.strip())
        stub = GdbStub(self._debugger, _GDB_SECONDS)
        for form, content in _forms(self._machine.uuid).items():
            for at in saved[form]:
                stub.write(_address(at, self._machine.memory), content)
        stub.detach()

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


def _as_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _forms(uuid: UUID) -> dict[str, bytes]:
    """The forms of a UUID in memory: as the kernel prints it, and as in the firmware's table (SMBIOS, 7.2.1)."""
    return {"text": str(uuid).encode(), "table": uuid.bytes_le}


def _find(ram: Path, content: bytes) -> list[int]:
    """The offsets of *content* in the file *ram*."""
    found = []
    with ram.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        at = memory.find(content)
        while at >= 0:
            found.append(at)
            at = memory.find(content, at + 1)
    return found


def _address(offset: int, memory: int) -> int:
    """The physical address of *offset* in the file of the machine's memory."""
    if memory < _ALL_BELOW or offset < _BELOW:
        return offset
    return offset - _BELOW + _ABOVE


def _host_cpu() -> str:
    """The CPU's model and features from /proc/cpuinfo (proc(5)), or else the platform's name of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    wanted = ("model name", "microcode", "flags")
    return " ".join(sorted({line for line in text.splitlines() if line.startswith(wanted)}))
