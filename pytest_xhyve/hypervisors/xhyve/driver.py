"""xhyve and hyperkit as the hypervisor: on Intel Macs.

What is said here of xhyve was read in its sources (github.com/machyve/xhyve, github.com/moby/hyperkit); file names in
comments are theirs.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from uuid import UUID, uuid5

from pytest_xhyve.host import leases, proofs
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guardian_process import CONSOLE, PIDFILE
from pytest_xhyve.host.privilege import Privilege, find_privilege, run_to_end
from pytest_xhyve.host.processes import find_processes
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.base import HypervisorInfo, Identity
from pytest_xhyve.hypervisors.xhyve import vmnet
from pytest_xhyve.hypervisors.xhyve.argv import argv_for, check_machine, probe_argv, remove_stale_pidfile
from pytest_xhyve.hypervisors.xhyve.build import Build, ask_build, find_program
from pytest_xhyve.hypervisors.xhyve.diagnosis import busy_uuid, explain
from pytest_xhyve.hypervisors.xhyve.identity import ProbeResult, UuidCache, UuidRecord, read_probe
from pytest_xhyve.hypervisors.xhyve.machine import XhyveMachine
from pytest_xhyve.model.errors import HypervisorExited, HypervisorNotFound, NotSupported
from pytest_xhyve.model.machine import DiskFormat, Machine

# A user's guests are fewer than vmnet has interfaces, as each question for an address takes one too.
_MOST_GUESTS = vmnet.MOST_INTERFACES - 4
# vmnet's set-up takes a second or two, and has been seen to hang for ever.
_SET_UP_SECONDS = 60.0
# As long as others may hold the lock one after the other: with 0.2.0, each for a whole boot.
_PATIENCE_SECONDS = 600.0
_LOOK_SECONDS = 0.005
# Of random UUIDs, one in ten or twenty was refused (sirn/vagrant-xhyve#6): three in a row have another reason.
_REFUSALS_IN_A_ROW = 3
_CONSOLE_BYTES = 1 << 20
_PROOF = UUID("5c9d0d8e-5f0e-4a55-9a4e-8f7c1f0e6b11")


class Xhyve:
    """xhyve or hyperkit on this host; which one, the program is asked.

    Args:
        program: a name that is looked up in PATH, or a path.
        cache: a folder in which is remembered what was found out about this host.

    Raises:
        HypervisorNotFound: there is no such program.
    """

    def __init__(self, *, program: str, cache: Path) -> None:
        self._executable = find_program(program)
        self._cache = cache
        self._known = UuidCache(cache)

    @property
    def disk_formats(self) -> frozenset[DiskFormat]:
        return frozenset({"raw"})

    @property
    def max_guests(self) -> int:
        return _MOST_GUESTS

    @cached_property
    def build(self) -> Build:
        """Which of the programs that are called xhyve this is."""
        return ask_build(self._executable)

    @cached_property
    def info(self) -> HypervisorInfo:
        build = self.build
        return HypervisorInfo(build.name, build.version, "hvf", f"run {self._privilege.description}", emulated=False)

    def prove(self) -> Proof:
        """Whether it can make a machine with a network card here; remembered until the host boots again."""

        def look() -> Proof:
            for number in range(_REFUSALS_IN_A_ROW):
                answer = self._ask(uuid5(_PROOF, f"{os.getuid()}:{number}"))
                if answer.known is None or not answer.known.refused:
                    break
            return Proof(answer.known is not None and not answer.known.refused, answer.why)

        with_what = (self._executable, self.build.version, self._privilege.description)
        return proofs.prove(self.build.name, with_what, self._cache, look, keeps_refusals=False)

    @property
    def snapshotter(self) -> None:
        # Neither xhyve nor hyperkit has a way to write down a machine's state.
        return None

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        refused: list[UUID] = []
        for uuid in candidates:
            known = self._known.find(uuid)
            if known is not None and known.refused:
                continue
            if known is not None:
                return Identity(uuid, known.mac)
            answer = self._ask(uuid)
            if answer.known is None:
                raise HypervisorExited(answer.why)
            if not answer.known.refused:
                # That this one was taken shows that the others were refused for what they are.
                for other in refused:
                    self._known.keep(other, UuidRecord(refused=True))
                self._known.keep(uuid, answer.known)
                return Identity(uuid, answer.known.mac)
            self._check_free(uuid)
            refused.append(uuid)
            if len(refused) == _REFUSALS_IN_A_ROW:
                raise HypervisorExited(answer.why)
        raise AssertionError("a slot has as many UUIDs as are asked for")

    @contextmanager
    def running(self, machine: Machine, process: GuardedProcess) -> Iterator[XhyveMachine]:
        check_machine(machine, self.build)
        known = self._known.find(machine.uuid)
        if (
            known is not None
            and known.mac is not None
            and any(nic.mac not in (None, known.mac) for nic in machine.nics)
        ):
            raise NotSupported(f"under {self.build.name}, vmnet chooses the Ethernet address; QEMU takes any")
        remove_stale_pidfile(process.folder / PIDFILE)
        with ExitStack() as stack:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            for end in (ours, theirs):
                # A default of the test's own would make them non-blocking, which has a meaning below.
                end.settimeout(None)
                # It writes byte by byte, and what does not fit is lost (uart_emul.c).
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BYTES)
            set_up = vmnet.VmnetLock()
            set_up.begin(_PATIENCE_SECONDS)
            stack.callback(set_up.end)
            before = leases.read_leases()
            process.start(
                [*self._privilege.prefix, self._executable, *argv_for(machine, self.build, process.folder)],
                {"hypervisor": self.build.name, "uuid": str(machine.uuid)},
                {0: theirs.fileno()},
                console=ours.fileno(),
                kill_command=self._privilege.kill_command,
            )
            vm = XhyveMachine(machine, process, self.build, ours, before, self._known)
            stack.callback(vm.kill)
            self._await_set_up(process, theirs, machine.uuid)
            theirs.close()
            self._tell_pid(process)
            if vm.mac is None:
                # Whose lease is whose can only be told while nobody else starts a guest.
                vm.on_lease(set_up.end)
            else:
                set_up.end()
            yield vm

    def _await_set_up(self, process: GuardedProcess, console: socket.socket, uuid: UUID) -> None:
        """Wait until the network card is made.

        Devices are made in the order of their slots (pci_emul.c); the last one is the serial port, which sets
        O_NONBLOCK on its descriptor (uart_emul.c). That is a property of the open file, which we have open too
        (fcntl(2)).
        """
        end = time.monotonic() + _SET_UP_SECONDS
        log = process.folder / CONSOLE
        before = log.stat().st_size if log.exists() else 0
        while not fcntl.fcntl(console, fcntl.F_GETFL) & os.O_NONBLOCK:
            if log.exists() and log.stat().st_size > before:
                return
            status = process.wait(_LOOK_SECONDS)
            if status is not None:
                if vmnet.REFUSAL in process.output():
                    self._check_free(uuid)
                raise self._failed(status, process.output())
            if time.monotonic() > end:
                raise self._failed(None, process.output())

    def _tell_pid(self, process: GuardedProcess) -> None:
        """Have others know xhyve's own running, not sudo's, whose command line has xhyve's in it."""
        if self._privilege.prefix:
            for running in find_processes(str(process.folder / PIDFILE)):
                if running.command.startswith(f"{self._executable} "):
                    process.report_pid(running.pid)
                    return

    @cached_property
    def _privilege(self) -> Privilege:
        return find_privilege(self._executable)

    def _ask(self, uuid: UUID) -> ProbeResult:
        """Ask for the Ethernet address that goes with *uuid*, which shows as well whether vmnet takes it."""
        set_up = vmnet.VmnetLock()
        set_up.begin(_PATIENCE_SECONDS)
        try:
            done = run_to_end(self._privilege, [self._executable, *probe_argv(uuid, self.build)], _SET_UP_SECONDS)
        except OSError as error:
            raise HypervisorNotFound(f"cannot start {self._executable}: {error}") from error
        finally:
            set_up.end()
        return read_probe(done, self.build, str(self._failed(done.code, done.output)))

    def _check_free(self, uuid: UUID) -> None:
        """Raise when a process holds *uuid*, for then vmnet refuses it to all others, in the same words."""
        holders = [process for process in find_processes(str(uuid)) if process.pid != os.getpid()]
        if holders:
            raise HypervisorExited(busy_uuid(uuid, holders[0].pid))

    def _failed(self, status: int | None, said: str) -> HypervisorExited:
        return HypervisorExited(explain(self.build, status, said, self._privilege, self._executable, _SET_UP_SECONDS))
