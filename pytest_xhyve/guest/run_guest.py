"""A guest of a whole run, as each process of the run uses it: over SSH only."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NoReturn

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import Start
from pytest_xhyve.host.others_process import OthersProcess
from pytest_xhyve.hypervisors.base import Endpoint, ExitReason, VirtualMachine
from pytest_xhyve.hypervisors.guarded import GuardedMachine
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.machine import SSH_PORT, Machine
from pytest_xhyve.model.values import PortProtocol

_WHAT_ELSE = "\n  take xhyve_guest or xhyve_session_guest for that, which do not belong to another worker"


class RunMachine(GuardedMachine):
    """The machine of such a guest: only its SSH server can be reached, and its console be read.

    Args:
        process: the guest's.
        endpoint: the address of its SSH server.
        mac: the Ethernet address of its first network card.
    """

    def __init__(self, process: OthersProcess, endpoint: Endpoint, mac: str | None) -> None:
        super().__init__(process)
        self._endpoint = endpoint
        self.mac = mac

    def find_endpoint(self, port: int) -> Endpoint | None:
        return self._endpoint if port == SSH_PORT else None

    def forward(self, port: int, protocol: PortProtocol = "tcp") -> Endpoint:
        if port == SSH_PORT and protocol == "tcp":
            return self._endpoint
        # A TCP port is reached over SSH.
        raise NotSupported(f"port {port} ({protocol}) of a guest of the whole run cannot be forwarded{_WHAT_ELSE}")

    def count_accepted(self, port: int) -> int | None:  # noqa: ARG002
        return None

    def exit_reason(self) -> ExitReason | None:
        return None if self.exit_status() is None else ExitReason.KILLED

    def explain_missing_address(self) -> str | None:
        return None

    def send_to_console(self, data: bytes) -> None:  # noqa: ARG002
        raise _refusal("console")

    def screenshot(self) -> bytes:
        raise _refusal("screen")

    def pause(self) -> None:
        raise _refusal("CPUs")

    def resume(self) -> None:
        raise _refusal("CPUs")

    def press_power_button(self) -> None:
        raise _refusal("power button")

    def kill(self) -> None:
        raise _refusal("power")


def _refusal(what: str) -> NotSupported:
    return NotSupported(f"a test cannot use the {what} of a guest that all tests of the run share{_WHAT_ELSE}")


class RunGuest(Guest):
    """A guest that all tests of the run use, maybe at the same time; what changes its machine raises `NotSupported`."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise NotSupported(
            f"guest {self.name} is shared by all tests of the run, and those of other workers may use it now\n"
            "  prepare it in the hook pytest_xhyve_run_guest, or take xhyve_guest or xhyve_session_guest"
        )

    start = kill = reboot = expect_reboot = shutdown = remove = keep = save_as_image = _refuse
    record_writes = power_cut = mark = crash_states = pause = resume = set_clock = throttle = chaos = _refuse
    snapshot = restore = network = link_down = link_up = _refuse
    disks = property(_refuse)

    def disconnect(self) -> None:
        """End the use of the guest by this process."""
        Guest.remove(self)


def connect(instance: Instance, machine: Machine, endpoint: Endpoint, mac: str | None) -> RunGuest:
    """Connect to a running guest that another process, or another object of this one, owns.

    Args:
        instance: its process is an `OthersProcess`.
        machine: the guest's machine.
        endpoint: the address of its SSH server.
        mac: the Ethernet address of its first network card.

    Raises:
        BootFailed: the guest does not answer.
        ConnectionFailed: the guest answers, but the login failed.
    """
    process = instance.process
    assert isinstance(process, OthersProcess)
    vm: VirtualMachine = RunMachine(process, endpoint, mac)
    guest = RunGuest(instance, machine)
    # Its console is read from now on, as that of a restored guest is.
    guest._boot_or_restore(Start("restore", lambda: nullcontext(vm)))
    return guest
