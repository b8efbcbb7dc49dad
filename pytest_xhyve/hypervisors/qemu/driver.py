"""The driver for QEMU, for Linux and for Macs without xhyve."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.exhaustion import find_cure
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import CONSOLE, PIDFILE
from pytest_xhyve.host.home import about_room
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.base import HypervisorInfo, Identity
from pytest_xhyve.hypervisors.qemu import acceleration, sandbox
from pytest_xhyve.hypervisors.qemu.devices import LAN_FD, device_options, option_value
from pytest_xhyve.hypervisors.qemu.firmware import Ovmf, find_ovmf
from pytest_xhyve.hypervisors.qemu.machine import QemuMachine, Wires, lan_card
from pytest_xhyve.hypervisors.qemu.qmp import QmpClient, QmpClosed
from pytest_xhyve.hypervisors.qemu.snapshots import QemuSnapshotter
from pytest_xhyve.hypervisors.unpacked_kernel import with_loadable_kernel
from pytest_xhyve.model.architecture import ARCHITECTURES, X86_64, Architecture
from pytest_xhyve.model.errors import HypervisorExited, HypervisorNotFound
from pytest_xhyve.model.machine import DiskFormat, Machine, nic_mac
from pytest_xhyve.model.settings import MAX_GUESTS
from pytest_xhyve.model.values import Acceleration

_QMP_FD = 10
_ANSWER_SECONDS = 60.0
_EXIT_SECONDS = 5.0
_VERSION_SECONDS = 5.0
# How much translated code an emulated machine keeps (qemu(1), -accel tcg,tb-size=). Without it, QEMU keeps up to 1 GiB
# (DEFAULT_CODE_GEN_BUFFER_SIZE in tcg/region.c). A page that many programs share then has thousands of translated
# blocks, and each store into the page looks through all of them. A kernel that unpacks itself over such pages at a
# reboot takes up to 9 s longer. With 64 MiB, one boot fills the buffer several times.
_TRANSLATED_MIB = 128


class Qemu:
    """QEMU on this host.

    Args:
        executable: the program, or None to look it up in PATH.
        accel: ``auto``, ``kvm``, ``hvf`` or ``tcg``.
        cache: a folder for facts about this host.
        architecture: the guests'.

    Raises:
        HypervisorNotFound: the program is not found.
    """

    def __init__(
        self, *, executable: str | None, accel: Acceleration, cache: Path, architecture: Architecture = X86_64
    ) -> None:
        wanted = executable or architecture.program
        found = shutil.which(wanted)
        if found is None:
            raise HypervisorNotFound(
                f"QEMU not found: for guests of {architecture.name}, looked for {wanted}"
                f"{'' if '/' in wanted else ' in PATH'}\n"
                f"  install it (Debian and Ubuntu: {architecture.package} and qemu-utils, macOS: brew install qemu),\n"
                "  or name the program with --xhyve-executable"
            )
        other = next((each for each in ARCHITECTURES.values() if each.program == Path(found).name), architecture)
        if other != architecture:
            raise HypervisorNotFound(
                f"{found} runs guests of {other.name}, and these are {architecture.name}\n"
                f"  name {architecture.program} with --xhyve-executable, or leave the option out"
            )
        # The path must be absolute, because each QEMU runs in its guest's folder.
        self._executable = str(Path(found).absolute())
        self._accel = accel
        self._cache = cache
        self.architecture = architecture

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        return frozenset({"raw", "qcow2"})

    @property
    def has_common_network(self) -> bool:
        return False

    @property
    def has_lans(self) -> bool:
        return True

    @property
    def changes_disks(self) -> bool:
        return True

    @property
    def host_loopback(self) -> str:
        # Of its user-mode network (qemu(1), -netdev user,host=).
        return "10.0.2.2"

    @cached_property
    def info(self) -> HypervisorInfo:
        version = self._version()
        if self._accel != "auto":
            chosen: str = self._accel
            reason = "requested"
        else:
            refused = []
            for chosen in acceleration.candidates():
                if chosen == "tcg":
                    break
                proof = acceleration.prove(self._executable, version, chosen, self._cache, self.architecture)
                if proof.works:
                    refused = [proof.reason]
                    break
                refused.append(f"no {chosen}: {proof.reason}")
            reason = "; ".join(refused) or "this platform has no acceleration"
        return HypervisorInfo("qemu", version, chosen, reason, emulated=chosen == "tcg")

    @cached_property
    def sandbox(self) -> Proof:
        """Whether its machines run behind the seccomp filter; without one, they run all the same."""
        return sandbox.prove(self._executable, self.info.version, self._cache, self.architecture)

    def prove(self) -> Proof:
        # If no acceleration works, QEMU emulates the CPU.
        return Proof(True, self.info.reason)

    @property
    def max_guests(self) -> int:
        # Each guest is a process with its own port, so only the host's memory limits them.
        return MAX_GUESTS

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        uuid = next(iter(candidates))
        return Identity(uuid, nic_mac(uuid))

    @cached_property
    def program_digest(self) -> str:
        """The SHA-256 of the program's file: two builds of one version may save different states."""
        return known_digest(Path(self._executable), self._cache)

    @property
    def snapshotter(self) -> QemuSnapshotter:
        return QemuSnapshotter(self)

    @contextmanager
    def running(self, machine: Machine, process: GuardedProcess) -> Iterator[QemuMachine]:
        with self.started(machine, process) as wires:
            yield QemuMachine(machine, process, wires)

    @contextmanager
    def started(
        self,
        machine: Machine,
        process: GuardedProcess,
        options: Sequence[str] = (),
        fds: Mapping[int, socket.socket] = MappingProxyType({}),
    ) -> Iterator[Wires]:
        """Like `running`, with more *options*, which may use the descriptors in *fds*; yields the wires to QEMU."""
        # Older QEMUs start the file of an EFI zboot kernel as an Image, and the guest hangs (tried with 7.2).
        machine = with_loadable_kernel(machine, process.folder, ["Image", "gzip"])
        with ExitStack() as stack:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            qmp = QmpClient(ours, _ANSWER_SECONDS)
            stack.callback(qmp.close)
            given = {_QMP_FD: theirs, **fds}
            lan_ends = []
            for number in range(len(machine.lan_macs)):
                end, given[LAN_FD + number] = map(stack.enter_context, socket.socketpair())
                lan_ends.append(CableEnd(end))
            record = {"hypervisor": "qemu", "uuid": str(machine.uuid)}
            if machine.firmware == "uefi":
                self._ovmf.create_variables(process.folder)
            argv = [*self.argv(machine, process.folder), *options]
            stack.callback(process.kill, "QEMU")
            process.start(argv, record, {number: end.fileno() for number, end in given.items()})
            for end in given.values():
                end.close()
            wires = Wires(qmp, tuple(lan_ends))
            try:
                qmp.negotiate()
                # A card without a cable: the guest does not wait for its network.
                for number in range(len(lan_ends)):
                    qmp.execute("set_link", name=lan_card(number), up=False)
            except (QmpClosed, TimeoutError) as error:
                raise self.exited_at_once(process) from error
            yield wires

    def argv(self, machine: Machine, folder: Path) -> list[str]:
        """The command line for *machine*; relative paths in it are relative to *folder*, in which QEMU runs."""
        # fmt: off
        argv = [
            self._executable,
            "-nodefaults", "-no-user-config", "-display", "none",
            *(sandbox.OPTIONS if self.sandbox.works else ()),
            "-name", f"guest={option_value(machine.name)}",
            "-pidfile", str(folder / PIDFILE),
            "-uuid", str(machine.uuid),
            *self._acceleration_options(),
            *self.computer_options(machine),
            "-m", f"{machine.memory // (1 << 20)}M",
            # The socket's path is relative, so it is short enough. QEMU writes the log even without a client.
            "-chardev", f"socket,id=console,path=console.sock,server=on,wait=off,logfile={CONSOLE},logappend=on",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=qmp,fd={_QMP_FD}",
            "-mon", "chardev=qmp,mode=control",
            "-device", "virtio-rng-pci",
        ]
        # fmt: on
        argv += self._boot_options(machine, folder)
        return [*argv, *device_options(machine, self.architecture.graphics)]

    def firmware_digests(self, machine: Machine) -> list[str]:
        """The SHA-256 of each file of the firmware of *machine*; SeaBIOS belongs to QEMU."""
        files = (self._ovmf.code, self._ovmf.variables) if machine.firmware == "uefi" else ()
        return [known_digest(file, self._cache) for file in files]

    @cached_property
    def _ovmf(self) -> Ovmf:
        return find_ovmf(Path(self._executable), architecture=self.architecture)

    def _boot_options(self, machine: Machine, folder: Path) -> list[str]:
        """The part of the command line that states what boots."""
        if machine.firmware == "uefi":
            return self._ovmf.options(folder)
        if machine.firmware == "bios":
            return []
        options = ["-kernel", str(machine.kernel), "-append", machine.cmdline]
        return options if machine.initrd is None else [*options, "-initrd", str(machine.initrd)]

    def _acceleration_options(self) -> list[str]:
        """The part of the command line that states what runs the CPU; the guest does not see it."""
        emulation = f"tcg,thread=multi,tb-size={_TRANSLATED_MIB}"
        return ["-accel", emulation if self.info.emulated else self.info.acceleration]

    def computer_options(self, machine: Machine) -> list[str]:
        """The part of the command line that states the machine type and the CPU, which the guest sees."""
        cpu = self.architecture.emulated_cpus.get(machine.cpu, "max") if self.info.emulated else "host"
        return ["-machine", self.architecture.machine, "-cpu", cpu, "-smp", str(machine.cpus)]

    def _version(self) -> str:
        try:
            done = subprocess.run(
                [self._executable, "--version"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                # Another program may print anything.
                errors="backslashreplace",
                timeout=_VERSION_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or error
            raise HypervisorNotFound(f"{self._executable} --version failed: {reason}") from error
        match = re.search(r"QEMU emulator version (\S+)", done.stdout)
        if match is None:
            raise HypervisorNotFound(f"{self._executable} is not QEMU; --version printed {done.stdout[:200]!r}")
        return match[1]

    def exited_at_once(self, process: GuardedProcess) -> HypervisorExited:
        """The error for a QEMU that exited, or did not answer, before its guest ran."""
        status = process.wait(_EXIT_SECONDS)
        output = process.output() or "(no output)"
        event = "did not answer" if status is None else f"ended with exit code {status}"
        return HypervisorExited(
            f"QEMU {self.info.version} {event} before the guest started; its output:\n"
            + "\n".join(f"    {line}" for line in output.splitlines())
            + _cure(output, process.folder)
        )


def _cure(output: str, folder: Path) -> str:
    """The end of a message: what to do if QEMU's *output* states that the host has run out of something."""
    if os.strerror(errno.ENOSPC) in output:
        return f"\n{about_room(folder)}"
    cure = find_cure(output)
    return "" if cure is None else f"\n  {cure}"
