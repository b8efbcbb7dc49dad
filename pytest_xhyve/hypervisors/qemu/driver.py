"""QEMU as the hypervisor: on Linux, and on Macs that have no xhyve."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE, PIDFILE
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.base import HypervisorInfo, Identity
from pytest_xhyve.hypervisors.qemu import acceleration
from pytest_xhyve.hypervisors.qemu.machine import LOOPBACK, QemuMachine
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed
from pytest_xhyve.hypervisors.qemu.snapshots import QemuSnapshotter
from pytest_xhyve.model.errors import HypervisorExited, HypervisorNotFound
from pytest_xhyve.model.machine import DiskFormat, Machine
from pytest_xhyve.model.settings import MAX_GUESTS

PROGRAM = "qemu-system-x86_64"
# Every device costs the guest's kernel time at boot; of these it needs none.
_MACHINE = "q35,usb=off,smbus=off,sata=off,vmport=off,hpet=off"
_QMP_FD = 10
_ANSWER_SECONDS = 60.0
_EXIT_SECONDS = 5.0

# What each level of the x86-64 psABI is emulated by. Emulated AVX is dear, so no more is offered than is asked.
_EMULATED_CPU = {"x86-64-v1": "qemu64", "x86-64-v2": "Nehalem", "x86-64-v3": "max"}


class Qemu:
    """QEMU on this host.

    Args:
        executable: the program, or None to look it up in PATH.
        accel: ``auto``, ``kvm``, ``hvf`` or ``tcg``.
        cache: a folder in which is remembered what was found out about this host.

    Raises:
        HypervisorNotFound: there is no such program.
    """

    def __init__(self, *, executable: str | None, accel: str, cache: Path) -> None:
        wanted = executable or PROGRAM
        found = shutil.which(wanted)
        if found is None:
            raise HypervisorNotFound(
                f"QEMU was not found: looked for {wanted}{'' if '/' in wanted else ' in PATH'}\n"
                "  install it (Debian and Ubuntu: qemu-system-x86 and qemu-utils, macOS: brew install qemu),\n"
                "  or name the program with --xhyve-executable"
            )
        # Guests are started in folders of their own.
        self._executable = str(Path(found).absolute())
        self._accel = accel
        self._cache = cache

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        return frozenset({"raw", "qcow2"})

    @cached_property
    def info(self) -> HypervisorInfo:
        version = self._version()
        if self._accel != "auto":
            chosen, reason = self._accel, "asked for"
        else:
            refused = []
            for chosen in acceleration.candidates():
                if chosen == "tcg":
                    break
                proof = acceleration.prove(self._executable, version, chosen, self._cache)
                if proof.works:
                    refused = [proof.reason]
                    break
                refused.append(f"no {chosen}: {proof.reason}")
            reason = "; ".join(refused) or "nothing better on this kind of host"
        return HypervisorInfo("qemu", version, chosen, reason, emulated=chosen == "tcg")

    def prove(self) -> Proof:
        # Where no acceleration works, it emulates.
        return Proof(True, self.info.reason)

    @property
    def max_guests(self) -> int:
        # Each is a process with a port of its own; the host's memory is the limit.
        return MAX_GUESTS

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        uuid = next(iter(candidates))
        # A locally administered unicast address (RFC 7042, section 2.1), in QEMU's 52:54 block.
        return Identity(uuid, "52:54:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[-4:]))

    def program_state(self) -> str:
        """What changes when the program is replaced, also by one that calls itself the same version."""
        found = Path(self._executable).stat()
        return f"{found.st_size}.{found.st_mtime_ns}"

    @property
    def snapshotter(self) -> QemuSnapshotter:
        return QemuSnapshotter(self)

    @contextmanager
    def running(self, machine: Machine, process: GuardedProcess) -> Iterator[QemuMachine]:
        with self.started(machine, process) as qmp:
            yield QemuMachine(machine, process, qmp)

    @contextmanager
    def started(
        self,
        machine: Machine,
        process: GuardedProcess,
        options: Sequence[str] = (),
        fds: Mapping[int, int] = MappingProxyType({}),
    ) -> Iterator[QmpClient]:
        """As `running`, with more *options*, which may name descriptors in *fds*; yields the control protocol."""
        ours, theirs = socket.socketpair()
        qmp = QmpClient(ours, _ANSWER_SECONDS)
        try:
            with theirs:
                record = {"hypervisor": "qemu", "uuid": str(machine.uuid)}
                argv = [*self.argv(machine, process.folder), *options]
                process.start(argv, record, {_QMP_FD: theirs.fileno(), **fds})
            try:
                qmp.negotiate()
            except (QmpClosed, TimeoutError) as error:
                raise self.exited_at_once(process) from error
            yield qmp
        finally:
            process.kill("QEMU")
            qmp.close()

    def argv(self, machine: Machine, folder: Path) -> list[str]:
        """The command line for *machine*; relative paths in it are in *folder*, where QEMU is started."""
        # fmt: off
        argv = [
            self._executable,
            "-nodefaults", "-no-user-config", "-display", "none",
            "-name", f"guest={machine.name}",
            "-pidfile", str(folder / PIDFILE),
            "-uuid", str(machine.uuid),
            *self.cpu_options(machine),
            "-m", f"{machine.memory // (1 << 20)}M",
            "-kernel", str(machine.kernel),
            "-append", machine.cmdline,
            # With a path of its own, relative and so short enough for a socket; the log needs nobody to read it.
            "-chardev", f"socket,id=console,path=console.sock,server=on,wait=off,logfile={CONSOLE},logappend=on",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=qmp,fd={_QMP_FD}",
            "-mon", "chardev=qmp,mode=control",
            "-device", "virtio-rng-pci",
        ]
        # fmt: on
        if machine.initrd is not None:
            argv += ["-initrd", str(machine.initrd)]
        for number, disk in enumerate(machine.disks):
            node = f"disk{number}"
            # The clone dies with the guest, so the host's disk need never be waited for. What the guest has synced
            # still survives a power cut of the guest: it is in the host's page cache.
            cache = {"no-flush": True}
            block = {
                "node-name": node,
                "driver": disk.format,
                "cache": cache,
                "discard": "unmap",
                "file": {
                    "driver": "file",
                    "filename": str(disk.path),
                    "cache": cache,
                    "discard": "unmap",
                },
            }
            argv += ["-blockdev", json.dumps(block), "-device", f"virtio-blk-pci,drive={node}"]
        for number, cdrom in enumerate(machine.cdroms):
            file = {"driver": "file", "filename": str(cdrom), "node-name": f"cdrom{number}", "read-only": True}
            argv += ["-device", f"ich9-ahci,id=ahci{number}", "-blockdev", json.dumps(file)]
            argv += ["-device", f"ide-cd,bus=ahci{number}.0,drive=cdrom{number}"]
        for number, nic in enumerate(machine.nics):
            forwards = "".join(f",hostfwd=tcp:{LOOPBACK}:0-:{port}" for port in nic.forward)
            argv += ["-netdev", f"user,id=net{number}{forwards}"]
            # Once a restored card has announced itself, QEMU 7.2 has no timer for that any more, and dies of stopping
            # it at the guest's next restart (virtio_net_reset in hw/net/virtio-net.c). Nobody here has to be told.
            argv += ["-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile=,guest_announce=off"]
        return argv

    def cpu_options(self, machine: Machine) -> list[str]:
        """The part of the command line that says what computer it is and what runs its CPUs."""
        if self.info.emulated:
            accel, cpu = "tcg,thread=multi", _EMULATED_CPU.get(machine.cpu, "max")
        else:
            accel, cpu = self.info.acceleration, "host"
        return ["-machine", _MACHINE, "-accel", accel, "-cpu", cpu, "-smp", str(machine.cpus)]

    def _version(self) -> str:
        try:
            done = subprocess.run(
                [self._executable, "--version"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_ANSWER_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            raise HypervisorNotFound(f"{self._executable} --version does not work: {said}") from error
        match = re.search(r"QEMU emulator version (\S+)", done.stdout)
        if match is None:
            raise HypervisorNotFound(f"{self._executable} is no QEMU; --version says {done.stdout[:200]!r}")
        return match[1]

    def exited_at_once(self, process: GuardedProcess) -> HypervisorExited:
        """The error for a QEMU that has ended, or does not answer, before its guest has run."""
        status = process.wait(_EXIT_SECONDS)
        said = process.output() or "(it said nothing)"
        what = "did not answer" if status is None else f"ended with code {status}"
        return HypervisorExited(
            f"QEMU {self.info.version} {what} before the guest started; its words:\n"
            + "\n".join(f"    {line}" for line in said.splitlines())
        )
