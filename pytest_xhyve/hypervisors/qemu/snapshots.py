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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from pytest_xhyve.host.clone import clone_file
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.hypervisors.qemu import migration
from pytest_xhyve.hypervisors.qemu.devices import option_value
from pytest_xhyve.hypervisors.qemu.gdb import GdbError, GdbStub
from pytest_xhyve.hypervisors.qemu.machine import QemuMachine, Wires
from pytest_xhyve.model.architecture import Architecture
from pytest_xhyve.model.machine import Machine

RAM = "ram"
STATE = "state"
IDENTITY = "identity.json"

_AGENT_FD, _GDB_FD = 11, 12
_END_SECONDS = 10.0
_GDB_SECONDS = 10.0


class _Qemu(Protocol):
    """The part of `pytest_xhyve.hypervisors.qemu.driver.Qemu` that this module uses."""

    @property
    def info(self) -> HypervisorInfo: ...

    @property
    def architecture(self) -> Architecture: ...

    @property
    def program_digest(self) -> str: ...

    def computer_options(self, machine: Machine) -> list[str]: ...

    def firmware_digests(self, machine: Machine) -> list[str]: ...

    def started(
        self,
        machine: Machine,
        process: GuardedProcess,
        options: Sequence[str] = ...,
        fds: Mapping[int, socket.socket] = ...,
    ) -> AbstractContextManager[Wires]: ...


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
            "hypervisor": f"{info.name} {info.version}",
            "build of the hypervisor": self._qemu.program_digest,
            "computer": " ".join(
                [info.acceleration, *self._qemu.computer_options(machine), *self._qemu.firmware_digests(machine)]
            ),
        }
        if not info.emulated:
            # The guest knows the features of the host's CPU, and the host's kernel has to load the CPU's state.
            depends |= {**_host_cpu(), "kernel": platform.release()}
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
    def start_waiting(self, machine: Machine, process: GuardedProcess, *, has_agent: bool) -> Iterator[QemuMachine]:
        options = ["-S", "-incoming", "defer"]
        if not has_agent:
            with self._qemu.started(machine, process, options) as wires:
                yield QemuMachine(machine, process, wires)
            return
        memory = f"memory-backend-ram,id={RAM},size={machine.memory >> 20}M"
        with self._started_with_agent(machine, process, process.folder, None, [*_memory(memory), *options]) as vm:
            vm.negotiate_capabilities(ignore_shared=False)
            yield vm

    @contextmanager
    def _started(
        self, machine: Machine, process: GuardedProcess, folder: Path, *, shared: bool, source: Path | None
    ) -> Iterator[QemuSnapshotMachine]:
        path = option_value(str(folder / RAM))
        share = "on" if shared else "off"
        memory = f"memory-backend-file,id={RAM},size={machine.memory >> 20}M,share={share},mem-path={path}"
        options = _memory(memory)
        if source is not None:
            options += ["-S", "-incoming", "defer"]
        if shared and source is not None:
            clone_file(source / RAM, folder / RAM)
        with self._started_with_agent(machine, process, folder, source, options) as vm:
            vm.negotiate_capabilities()
            yield vm

    @contextmanager
    def _started_with_agent(
        self, machine: Machine, process: GuardedProcess, folder: Path, source: Path | None, options: Sequence[str]
    ) -> Iterator[QemuSnapshotMachine]:
        """A machine with a second serial port, and a socket for a debugger."""
        with ExitStack() as stack:
            agent, agent_end = map(stack.enter_context, socket.socketpair())
            debugger, debugger_end = map(stack.enter_context, socket.socketpair())
            fds = {_AGENT_FD: agent_end, _GDB_FD: debugger_end}
            # fmt: off
            ports = [
                "-chardev", f"socket,id=agent,fd={_AGENT_FD}",
                *self._qemu.architecture.agent_device,
                "-chardev", f"socket,id=gdb,fd={_GDB_FD}",
            ]
            # fmt: on
            wires = stack.enter_context(self._qemu.started(machine, process, [*ports, *options], fds))
            yield QemuSnapshotMachine(machine, process, wires, agent, debugger, folder, source, self._qemu.architecture)


def _memory(backend: str) -> list[str]:
    """The part of the command line that states where the machine's memory is."""
    return ["-object", backend, "-machine", f"memory-backend={RAM}"]


class QemuSnapshotMachine(QemuMachine):
    """See `pytest_xhyve.hypervisors.base.SnapshotMachine`."""

    def __init__(
        self,
        machine: Machine,
        process: GuardedProcess,
        wires: Wires,
        agent: socket.socket,
        debugger: socket.socket,
        folder: Path,
        source: Path | None,
        architecture: Architecture,
    ) -> None:
        super().__init__(machine, process, wires)
        self._debugger = debugger
        self._folder = folder
        self._source = source
        self._architecture = architecture
        self.agent = agent

    @property
    def has_agent(self) -> bool:
        return True

    def negotiate_capabilities(self, *, ignore_shared: bool = True) -> None:
        """Let QEMU leave shared memory out of the migration stream, or not."""
        with self._errors("prepare"):
            capability = {"capability": "x-ignore-shared", "state": ignore_shared}
            self._qmp.execute("migrate-set-capabilities", capabilities=[capability])

    def save_state(self, file: Path) -> None:
        # The file of the memory changes while the machine runs on.
        self.negotiate_capabilities(ignore_shared=False)
        try:
            super().save_state(file)
        finally:
            self.negotiate_capabilities()

    def restore(self) -> None:
        assert self._source is not None
        with self._errors("restore"):
            saved = json.loads((self._source / IDENTITY).read_text())
            with self._state_to_load(saved["macs"]) as state:
                migration.load_state(self._qmp, state)
            self._write_identity(saved)
            self._qmp.execute("cont")

    def save(self, *, as_itself: bool = False) -> None:
        with self._errors("save"):
            # Stop first, so that the disk and the clock match the rest of the state.
            self._qmp.execute("stop")
            migration.save_state(self._qmp, self._folder / STATE)
            self._qmp.execute("quit")
        if self.wait_for_exit(_END_SECONDS) is None:
            self.kill()
        places = {} if as_itself else _find_identity(self._machine, self._folder / RAM)
        identity = {"uuid": str(self._machine.uuid), "macs": _macs(self._machine), **places}
        (self._folder / IDENTITY).write_text(json.dumps(identity))

    @contextmanager
    def _state_to_load(self, macs: Sequence[str]) -> Iterator[IO[bytes]]:
        """The saved state, with this machine's Ethernet addresses instead of *macs*.

        Not only the cards contain the addresses. The DHCP server of QEMU's user-mode network also remembers which
        Ethernet address has its first IP address, to which it forwards ports. It would give a guest with another
        Ethernet address the second IP address.
        """
        assert self._source is not None
        content = (self._source / STATE).read_bytes()
        for saved, ours in zip(macs, _macs(self._machine), strict=True):
            content = content.replace(_as_bytes(saved), _as_bytes(ours))
        with tempfile.TemporaryFile(dir=self._process.folder) as state:
            state.write(content)
            state.flush()
            state.seek(0)
            yield state

    def _write_identity(self, saved: dict[str, Any]) -> None:
        """Write this machine's UUID and Ethernet address over the saved machine's in memory.

        A program in the guest cannot change the UUID. It can change the address, and the agent does, but each network
        manager that sees a change asks for an address anew, and the guest cannot be reached meanwhile.
        """
        forms = _forms(self._machine)
        # Without firmware, memory for arm64 has no UUID.
        if saved["uuid"] == str(self._machine.uuid) or not any(saved.get(form) for form in forms):
            return
        output = self._qmp.monitor("gdbserver chardev:gdb")
        if "Could not" in output:
            raise GdbError(output.strip())
        stub = GdbStub(self._debugger, _GDB_SECONDS)
        for form, content in forms.items():
            for at in saved.get(form, ()):
                stub.write(_address(at, self._machine.memory, self._architecture), content)
        stub.detach()


def _macs(machine: Machine) -> list[str]:
    """The Ethernet addresses of all cards of *machine*."""
    assert machine.nics[0].mac is not None
    return [machine.nics[0].mac, *machine.lan_macs]


def _as_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _forms(machine: Machine) -> dict[str, bytes]:
    """The forms of a machine's identity in memory.

    These are the UUID as the kernel prints it, and as in the firmware's table (SMBIOS, 7.2.1), and the Ethernet address
    of the first card, as the kernel and network managers hold it.
    """
    uuid, mac = machine.uuid, _as_bytes(_macs(machine)[0])
    return {"text": str(uuid).encode(), "table": uuid.bytes_le, "mac": mac}


def _find_identity(machine: Machine, ram: Path) -> dict[str, list[int]]:
    """The offsets of each form of the machine's identity in the file *ram*."""
    forms = _forms(machine)
    places = {form: _find(ram, content) for form, content in forms.items()}
    # The address is made of bytes of the UUID, and may be a part of it, by chance. Of that, programs have copies.
    if any(forms["mac"] in content for content in (machine.uuid.bytes, machine.uuid.bytes_le)):
        places["mac"] = []
    return places


def _find(ram: Path, content: bytes) -> list[int]:
    """The offsets of *content* in the file *ram*."""
    found = []
    with ram.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        at = memory.find(content)
        while at >= 0:
            found.append(at)
            at = memory.find(content, at + 1)
    return found


def _address(offset: int, memory: int, architecture: Architecture) -> int:
    """The physical address of *offset* in the file of the machine's memory."""
    hole = architecture.ram_hole
    if hole is not None:
        split_from, below, above = hole
        if memory >= split_from and offset >= below:
            return offset - below + above
    return architecture.ram_start + offset


def _host_cpu() -> dict[str, str]:
    """The CPU's model and features from /proc/cpuinfo (proc(5)), or else the platform's name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"CPU": platform.processor()}
    wanted = {"CPU": "model name", "microcode of the CPU": "microcode", "features of the CPU": "flags"}
    return {
        name: " ".join(sorted({line.partition(":")[2].strip() for line in lines if line.startswith(field)}))
        for name, field in wanted.items()
    }
