"""Saving a machine under QEMU, and restoring others from it.

Its memory is a file: the machine that is saved shares it, those that are restored map it privately, so that they read
the same pages and keep what they write to themselves. The state of everything else is a migration stream that leaves
out such memory (the capability x-ignore-shared; docs/devel/migration.rst in QEMU's sources).
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

# Where q35 has a hole for devices, and where memory goes on behind it (hw/i386/pc_q35.c in QEMU's sources).
_ALL_BELOW, _BELOW, _ABOVE = 0xB000_0000, 0x8000_0000, 1 << 32


class _Qemu(Protocol):
    """What is needed here of `pytest_xhyve.hypervisors.qemu.driver.Qemu`."""

    @property
    def info(self) -> HypervisorInfo: ...

    def program_state(self) -> str: ...

    def cpu_options(self, machine: Machine) -> list[str]: ...

    def started(
        self, machine: Machine, process: GuardedProcess, options: Sequence[str] = ..., fds: Mapping[int, int] = ...
    ) -> AbstractContextManager[QmpClient]: ...


class QemuSnapshotter:
    """See `pytest_xhyve.hypervisors.base.Snapshotter`.

    Args:
        qemu: the program, and how it runs a machine.
    """

    def __init__(self, qemu: _Qemu) -> None:
        self._qemu = qemu

    def depends_on(self, machine: Machine) -> dict[str, str]:
        info = self._qemu.info
        depends = {
            "hypervisor": f"{info.name} {info.version} {self._qemu.program_state()}",
            "computer": " ".join(self._qemu.cpu_options(machine)),
        }
        if not info.emulated:
            # A guest has looked at the host's CPU, and its state is also the host's kernel's to read.
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
            vm.agree()
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

    def agree(self) -> None:
        """Have QEMU leave shared memory out of what it saves and loads."""
        with self._errors("prepare"):
            self._qmp.execute("migrate-set-capabilities", capabilities=[_CAPABILITY])

    def restore(self) -> None:
        assert self._source is not None
        with self._errors("restore"):
            saved = json.loads((self._source / IDENTITY).read_text())
            with self._state_to_load(saved["mac"]) as state:
                self._qmp.send_file("state", state.fileno())
            self._qmp.execute("migrate-incoming", uri="fd:state")
            end = time.monotonic() + _SAVE_SECONDS
            while self._qmp.execute("query-status")["status"] == "inmigrate":
                if time.monotonic() > end:
                    raise QmpError(f"it has not loaded what was saved within {_SAVE_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
            self._write_uuid(saved)
            self._qmp.execute("cont")

    def save(self, *, as_itself: bool = False) -> None:
        with self._errors("save"):
            # Before, so that the disk and the clock stand still with the rest.
            self._qmp.execute("stop")
            with (self._folder / STATE).open("wb") as state:
                self._qmp.send_file("state", state.fileno())
            self._qmp.execute("migrate", uri="fd:state")
            end = time.monotonic() + _SAVE_SECONDS
            while (done := self._qmp.execute("query-migrate"))["status"] not in _ENDED:
                if time.monotonic() > end:
                    raise XhyveError(f"QEMU has not saved guest {self._machine.name} within {_SAVE_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
            if done["status"] != "completed":
                raise QmpError(done.get("error-desc") or self.output() or "it does not say why")
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
        """What was saved, with our Ethernet address in the place of *mac*.

        Not only the card has it: the DHCP server of QEMU's user-mode network knows who has its first address, to
        which ports are forwarded, and would give a guest that comes with another one the second.
        """
        assert self._source is not None
        ours = self._machine.nics[0].mac
        assert ours is not None
        with tempfile.TemporaryFile(dir=self._ward.folder) as state:
            state.write((self._source / STATE).read_bytes().replace(_as_bytes(mac), _as_bytes(ours)))
            state.flush()
            state.seek(0)
            yield state

    def _write_uuid(self, saved: dict[str, Any]) -> None:
        """Put our UUID where the saved machine's stands: nothing in a guest can do that."""
        if saved["uuid"] == str(self._machine.uuid):
            return
        said = self._qmp.monitor("gdbserver chardev:gdb")
        if "Could not" in said:
            raise GdbError(said.strip())
        stub = GdbStub(self._debugger, _GDB_SECONDS)
        for form, content in _forms(self._machine.uuid).items():
            for at in saved[form]:
                stub.write(_address(at, self._machine.memory), content)
        stub.detach()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Tell of what goes wrong in the block with QEMU's own words."""
        name = self._machine.name
        try:
            yield
        except QmpClosed as error:
            self.wait_for_exit(_END_SECONDS)
            said = "; ".join(self.output().splitlines()) or "(no word)"
            raise HypervisorExited(f"QEMU ended, asked to {what} {name}: {said}") from error
        except (QmpError, GdbError, TimeoutError) as error:
            raise HypervisorExited(f"QEMU cannot {what} {name}: {error}") from error


def _as_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _forms(uuid: UUID) -> dict[str, bytes]:
    """How a UUID stands in memory: as the kernel shows it, and as the firmware's table has it (SMBIOS, 7.2.1)."""
    return {"text": str(uuid).encode(), "table": uuid.bytes_le}


def _find(ram: Path, content: bytes) -> list[int]:
    """Where *content* stands in the file *ram*."""
    found = []
    with ram.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        at = memory.find(content)
        while at >= 0:
            found.append(at)
            at = memory.find(content, at + 1)
    return found


def _address(offset: int, memory: int) -> int:
    """The physical address of what stands at *offset* in the machine's memory."""
    if memory < _ALL_BELOW or offset < _BELOW:
        return offset
    return offset - _BELOW + _ABOVE


def _host_cpu() -> str:
    """The CPU's model and abilities, as /proc/cpuinfo has them (proc(5)); elsewhere, what the platform says."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    wanted = ("model name", "microcode", "flags")
    return " ".join(sorted({line for line in text.splitlines() if line.startswith(wanted)}))
