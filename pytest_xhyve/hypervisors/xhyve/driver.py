"""The driver for xhyve and hyperkit, on Intel Macs.

The facts about xhyve in this package come from its sources (github.com/machyve/xhyve, github.com/moby/hyperkit), and
so do the file names in comments.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from uuid import UUID, uuid5

from pytest_xhyve.host import leases, proofs
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import CONSOLE, PIDFILE
from pytest_xhyve.host.privilege import Privilege, find_privilege, run_to_end
from pytest_xhyve.host.processes import find_processes
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.host.vanishing import size_of
from pytest_xhyve.hypervisors.base import HypervisorInfo, Identity
from pytest_xhyve.hypervisors.leased import LeasedHypervisor
from pytest_xhyve.hypervisors.xhyve import vmnet
from pytest_xhyve.hypervisors.xhyve.argv import argv_for, check_machine, probe_argv, remove_stale_pidfile
from pytest_xhyve.hypervisors.xhyve.build import Build, ask_build, find_program
from pytest_xhyve.hypervisors.xhyve.diagnosis import busy_uuid, explain
from pytest_xhyve.hypervisors.xhyve.identity import ProbeResult, UuidCache, UuidRecord, read_probe
from pytest_xhyve.hypervisors.xhyve.machine import XhyveMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited, HypervisorNotFound, NotSupported
from pytest_xhyve.model.machine import Machine

# Fewer than vmnet has interfaces, because each probe for an Ethernet address takes an interface, too.
_MAX_GUESTS = vmnet.MAX_INTERFACES - 4
# vmnet's set-up takes a second or two. On some hosts it hangs for ever.
_SET_UP_SECONDS = 60.0
# Other processes may hold the lock one after the other; with release 0.2.0, each for a whole boot.
_LOCK_SECONDS = 600.0
_LOOK_SECONDS = 0.005
# vmnet refuses one random UUID in ten or twenty (sirn/vagrant-xhyve#6); three in a row have another cause.
_REFUSALS_IN_A_ROW = 3
_CONSOLE_BYTES = 1 << 20
_PROOF = UUID("5c9d0d8e-5f0e-4a55-9a4e-8f7c1f0e6b11")


class Xhyve(LeasedHypervisor):
    """xhyve or hyperkit on this host; the program's output shows which one.

    Args:
        program: a name that is looked up in PATH, or a path.
        cache: a folder for facts about this host.

    Raises:
        HypervisorNotFound: the program is not found.
    """

    def __init__(self, *, program: str, cache: Path) -> None:
        super().__init__(find_program(program), cache)
        self._known = UuidCache(cache)

    @property
    def has_common_network(self) -> bool:
        # vmnet's (README of xhyve; the shared mode of vmnet.framework).
        return True

    @property
    def has_lans(self) -> bool:
        return False

    @property
    def max_guests(self) -> int:
        return _MAX_GUESTS

    @cached_property
    def build(self) -> Build:
        """The program's build."""
        return ask_build(self._executable)

    @cached_property
    def info(self) -> HypervisorInfo:
        build = self.build
        return HypervisorInfo(build.name, build.version, "hvf", f"run {self._privilege.description}", emulated=False)

    def prove(self) -> Proof:
        """Whether the program can create a machine with a network card; a success is valid until the host boots."""

        def check() -> Proof:
            for number in range(_REFUSALS_IN_A_ROW):
                result = self._probe(uuid5(_PROOF, f"{os.getuid()}:{number}"))
                if result.record is None or not result.record.refused:
                    break
            return Proof(result.record is not None and not result.record.refused, result.reason)

        depends_on = (self._executable, self.build.version, self._privilege.description)
        return proofs.prove(self.build.name, depends_on, self._cache, check, keeps_refusals=False)

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        refused: list[UUID] = []
        for uuid in candidates:
            known = self._known.find(uuid)
            if known is not None and known.refused:
                continue
            if known is not None:
                return Identity(uuid, known.mac)
            result = self._probe(uuid)
            if result.record is None:
                raise HypervisorExited(result.reason)
            if not result.record.refused:
                # vmnet works, so it refused the other UUIDs for good.
                for other in refused:
                    self._known.save(other, UuidRecord(refused=True))
                self._known.save(uuid, result.record)
                return Identity(uuid, result.record.mac)
            self._check_free(uuid)
            refused.append(uuid)
            if len(refused) == _REFUSALS_IN_A_ROW:
                raise HypervisorExited(result.reason)
        raise AssertionError("a slot has an unlimited number of UUIDs")

    @contextmanager
    def running(self, machine: Machine, process: GuardedProcess) -> Iterator[XhyveMachine]:
        check_machine(machine, self.build)
        known = self._known.find(machine.uuid)
        if (
            known is not None
            and known.mac is not None
            and any(nic.mac not in (None, known.mac) for nic in machine.nics)
        ):
            raise NotSupported(f"under {self.build.name}, vmnet selects the Ethernet address; use QEMU to set it")
        remove_stale_pidfile(process.folder / PIDFILE)
        with ExitStack() as stack:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            for end in (ours, theirs):
                # A default timeout that a test sets would make them non-blocking, which has a meaning below.
                end.settimeout(None)
                # xhyve writes byte by byte, and loses the bytes that do not fit (uart_emul.c).
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BYTES)
            lock = vmnet.VmnetLock()
            lock.acquire(_LOCK_SECONDS)
            stack.callback(lock.release)
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
            self._wait_for_network_card(process, theirs, machine.uuid)
            theirs.close()
            self._report_pid(process)
            if vm.mac is None:
                # The plugin can match the new lease to this guest only while no other guest starts.
                vm.on_lease(lock.release)
            else:
                lock.release()
            yield vm

    def _wait_for_network_card(self, process: GuardedProcess, console: socket.socket, uuid: UUID) -> None:
        """Wait until xhyve has created the network card.

        xhyve creates devices in the order of their slots (pci_emul.c). The last one is the serial port, which sets
        O_NONBLOCK on its descriptor (uart_emul.c). That flag belongs to the open file, which this process has open,
        too (fcntl(2)).
        """
        end = monotonic() + _SET_UP_SECONDS
        log = process.folder / CONSOLE
        before = size_of(log)
        while not fcntl.fcntl(console, fcntl.F_GETFL) & os.O_NONBLOCK:
            if size_of(log) > before:
                return
            status = process.wait(_LOOK_SECONDS)
            if status is not None:
                if vmnet.REFUSAL in process.output():
                    self._check_free(uuid)
                raise self._failed(status, process.output())
            if monotonic() > end:
                raise self._failed(None, process.output())

    def _report_pid(self, process: GuardedProcess) -> None:
        """Record the process id of xhyve itself, not of sudo, whose command line contains that of xhyve."""
        if self._privilege.prefix:
            for running in find_processes(str(process.folder / PIDFILE)):
                if running.command.startswith(f"{self._executable} "):
                    process.report_pid(running.pid)
                    return

    @cached_property
    def _privilege(self) -> Privilege:
        return find_privilege(self._executable)

    def _probe(self, uuid: UUID) -> ProbeResult:
        """Find out whether vmnet accepts *uuid*, and the Ethernet address that belongs to it."""
        lock = vmnet.VmnetLock()
        lock.acquire(_LOCK_SECONDS)
        try:
            done = run_to_end(self._privilege, [self._executable, *probe_argv(uuid, self.build)], _SET_UP_SECONDS)
        except OSError as error:
            raise HypervisorNotFound(f"cannot start {self._executable}: {error}") from error
        finally:
            lock.release()
        return read_probe(done, self.build, str(self._failed(done.code, done.output)))

    def _check_free(self, uuid: UUID) -> None:
        """Raise an error if a process uses *uuid*: vmnet then refuses it to all others, with the same message.

        Raises:
            HypervisorExited: a process uses it; the message names the process.
        """
        holders = [process for process in find_processes(str(uuid)) if process.pid != os.getpid()]
        if holders:
            raise HypervisorExited(busy_uuid(uuid, holders[0].pid))

    def _failed(self, status: int | None, output: str) -> HypervisorExited:
        return HypervisorExited(explain(self.build, status, output, self._privilege, self._executable, _SET_UP_SECONDS))
