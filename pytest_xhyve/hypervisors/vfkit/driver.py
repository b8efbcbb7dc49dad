"""The driver for vfkit, on Macs with macOS 13 or later.

The facts about vfkit in this package come from its sources (github.com/crc-org/vfkit), and so do the file names in
comments.
"""

from __future__ import annotations

import os
import pty
import socket
import tty
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from uuid import UUID

from pytest_xhyve.host import leases, proofs
from pytest_xhyve.host.cable import CableEnd
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import OUTPUT
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.host.vanishing import size_of
from pytest_xhyve.hypervisors.base import HypervisorInfo, Identity
from pytest_xhyve.hypervisors.leased import LeasedHypervisor
from pytest_xhyve.hypervisors.unpacked_kernel import with_loadable_kernel
from pytest_xhyve.hypervisors.vfkit.argv import LAN_FD, argv_for, check_machine, rest_socket
from pytest_xhyve.hypervisors.vfkit.diagnosis import RUNNING, explain
from pytest_xhyve.hypervisors.vfkit.machine import VfkitMachine
from pytest_xhyve.hypervisors.vfkit.program import ask_version, find_program
from pytest_xhyve.hypervisors.vfkit.proof import prove_that_it_runs
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import HypervisorExited
from pytest_xhyve.model.machine import Machine, nic_mac

# All guests get an interface of vmnet, which has 32.
_MAX_GUESTS = 28
# vfkit itself waits for 5 s.
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.005
_CONSOLE_BYTES = 1 << 20
# The framework wants the room to receive to be four times that to send (VZFileHandleNetworkDeviceAttachment.h).
_CABLE_SEND_BYTES, _CABLE_RECEIVE_BYTES = 1 << 20, 4 << 20


class Vfkit(LeasedHypervisor):
    """vfkit on this host.

    The framework saves and restores machines on arm64, from macOS 14 on, but vfkit offers neither.

    Args:
        program: a name that is looked up in PATH, or a path.
        cache: a folder for facts about this host.

    Raises:
        HypervisorNotFound: the program is not found.
    """

    def __init__(self, *, program: str, cache: Path) -> None:
        super().__init__(find_program(program), cache)

    @property
    def has_common_network(self) -> bool:
        # Whether its guests reach each other was not tried.
        return False

    @property
    def has_lans(self) -> bool:
        return True

    @property
    def max_guests(self) -> int:
        return _MAX_GUESTS

    @cached_property
    def info(self) -> HypervisorInfo:
        return HypervisorInfo(
            "vfkit", ask_version(self._executable), "hvf", "Apple's Virtualization framework", emulated=False
        )

    def prove(self) -> Proof:
        """Whether the program can start a machine; a success is valid until the host boots."""
        version = self.info.version
        return proofs.prove(
            "vfkit",
            (self._executable, version),
            self._cache,
            lambda: prove_that_it_runs(self._executable, version),
            keeps_refusals=False,
        )

    def identify(self, candidates: Iterable[UUID]) -> Identity:
        uuid = next(iter(candidates))
        return Identity(uuid, nic_mac(uuid))

    @contextmanager
    def running(self, machine: Machine, process: GuardedProcess) -> Iterator[VfkitMachine]:
        check_machine(machine)
        # pkg/vf/bootloader.go
        machine = with_loadable_kernel(machine, process.folder, ["Image"])
        with ExitStack() as stack:
            ours, theirs = map(stack.enter_context, socket.socketpair())
            for end in (ours, theirs):
                # A default timeout that a test sets would make them non-blocking, for vfkit, too.
                end.settimeout(None)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONSOLE_BYTES)
            # vfkit takes no standard input but a terminal (setRawMode in pkg/vf/virtio.go), and leaves on what is on in
            # it: Ctrl-C would not get to the guest.
            terminal, keyboard = pty.openpty()
            stack.callback(os.close, terminal)
            with os.fdopen(keyboard, "rb", buffering=0):
                tty.setraw(keyboard)
                cables = [_new_cable(stack) for _ in machine.lan_macs]
                before = leases.read_leases()
                # vfkit that was killed has left it, and another does not start then (pkg/rest/rest.go).
                rest_socket(process.folder).unlink(missing_ok=True)
                offset = size_of(process.folder / OUTPUT)
                process.start(
                    [self._executable, *argv_for(machine, process.folder)],
                    {"hypervisor": "vfkit", "uuid": str(machine.uuid)},
                    # A kept guest's terminal stays open, as vfkit holds both of its ends.
                    {0: keyboard, 1: theirs.fileno(), 3: terminal, **_lan_descriptors([end for _, end in cables])},
                    console=ours.fileno(),
                )
            theirs.close()
            for _, cable in cables:
                cable.close()
            vm = VfkitMachine(machine, process, terminal, before, [end for end, _ in cables])
            stack.callback(vm.kill)
            self._wait_until_running(process, offset)
            yield vm

    def _wait_until_running(self, process: GuardedProcess, offset: int) -> None:
        """Wait until vfkit logs that the guest runs; *offset* is the size that its log had before the start."""
        end = monotonic() + _START_SECONDS
        while RUNNING not in _read(process.folder / OUTPUT, offset):
            status = process.wait(_LOOK_SECONDS)
            if status is not None or monotonic() > end:
                output = _read(process.folder / OUTPUT, offset).decode(errors="replace")
                raise HypervisorExited(explain(self.info.version, status, output, _START_SECONDS))


def _new_cable(stack: ExitStack) -> tuple[CableEnd, CableEnd]:
    """The host's end of a new cable, and vfkit's, which both close with *stack*."""
    frames, lives = socket.socketpair(type=socket.SOCK_DGRAM), socket.socketpair()
    ends = CableEnd(frames[0], lives[0]), CableEnd(frames[1], lives[1])
    for end in ends:
        stack.callback(end.close)
        end.frames.settimeout(None)
        end.frames.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CABLE_SEND_BYTES)
        end.frames.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CABLE_RECEIVE_BYTES)
    return ends


def _lan_descriptors(ends: Sequence[CableEnd]) -> dict[int, int]:
    """The numbers that the descriptors of *ends* get in vfkit. It only holds those by which the switch sees its end."""
    sockets = [end.frames for end in ends] + [end.life for end in ends if end.life is not None]
    return {LAN_FD + number: each.fileno() for number, each in enumerate(sockets)}


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()
