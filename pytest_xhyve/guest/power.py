"""A guest's machine: switched on, until it is switched off."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_xhyve.guest.boot_errors import hints, note_console
from pytest_xhyve.guest.boot_phases import BANNER, FIRMWARE, BootPhases
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.health import Health
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.login import Login
from pytest_xhyve.guest.start import AnyMachine, Start
from pytest_xhyve.hypervisors.base import ExitReason, VirtualMachine
from pytest_xhyve.model.architecture import architecture_of
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, XhyveError
from pytest_xhyve.model.machine import Machine

if TYPE_CHECKING:
    from pytest_xhyve.guest.tunnel import Tunnel

_BOOT = "boot"


class Power:
    """Switches a guest's machine on and off.

    Args:
        machine: the guest's machine.
        instance: has the image, the limits, and the listener for the phases of a start.
    """

    def __init__(self, machine: Machine, instance: Instance) -> None:
        self.name = machine.name
        self._has_boot_loader = machine.firmware is not None
        self.image = instance.image
        self.timeouts = instance.timeouts
        self._events = instance.events
        self._lans = instance.lans
        self._on = ExitStack()
        self._vm: VirtualMachine | None = None
        self._console: Console | None = None
        self.health = Health(self.name, lambda: self.machine, instance.lans)
        self.login = Login(self.name, instance, self.health, lambda: self.machine, lambda: self.console)
        self.tunnels: dict[int, Tunnel] = {}
        """The ports that are reached over SSH, until the machine is switched off."""
        self.started_by: Start[Any] | None = None
        """How the machine was started; None before the first start."""

    @property
    def is_on(self) -> bool:
        """True while the hypervisor runs."""
        return self._vm is not None and self._vm.exit_status() is None

    @property
    def has_died(self) -> bool:
        """True if the hypervisor failed or was killed, and not by `kill`: the guest itself has not powered off."""
        vm = self._vm
        return vm is not None and vm.exit_reason() in (ExitReason.KILLED, ExitReason.FAILED)

    @property
    def machine(self) -> VirtualMachine:
        """The running machine.

        Raises:
            XhyveError: the guest is off.
        """
        if self._vm is None:
            raise XhyveError(f"guest {self.name} is off; start() starts it")
        return self._vm

    @property
    def console(self) -> Console:
        """The serial port; its output stays after the machine is switched off.

        Raises:
            XhyveError: the guest was never started.
        """
        if self._console is None:
            raise XhyveError(f"guest {self.name} was never started")
        return self._console

    def switch_on(self, start: Start[AnyMachine], timeout: float) -> dict[str, float]:
        """Start the machine and connect to it, within *timeout* seconds.

        Returns:
            the seconds of each step: ``start``, then ``boot``, or ``restore`` and ``banner``, then ``login``.

        Raises:
            BootFailed: the guest did not boot; the error names the phase that failed.
            ConnectionFailed: SSH answered, but the login failed.
        """
        self._on.close()
        self.started_by = start
        is_boot = start.phase == _BOOT
        begin = monotonic()
        # The stack closes the machine first: after that, closing the connection does not wait.
        self._on.callback(self._forget_machine)
        vm = self._vm = self._on.enter_context(start.running())
        self._lans.connect(vm)
        progress = BootPhases(FIRMWARE if is_boot else start.phase, partial(self._events.phase, self.name))
        self._console = self._open_console(vm, is_boot=is_boot)
        self.health.watch(self._console, progress.feed)
        self.login.expect_boot()
        started = monotonic()
        try:
            start.make_ready(vm)
            self._lans.link_up(vm)
            ready = monotonic()
            if not is_boot:
                progress.enter(BANNER)
            banner, login = self.login.connect(
                begin + timeout, limit=timeout, progress=progress, may_have_booted=is_boot
            )
        except BootFailed as error:
            progress.stop()
            error.phases = progress.seconds()
            error.hints = hints(
                error,
                start.phase,
                self.timeouts,
                is_silent=progress.is_silent,
                has_boot_loader=self._has_boot_loader,
                suspicion=self.health.suspicion,
                serial_port=architecture_of(self.image.arch).console,
            )
            raise
        except BaseException as error:
            note_console(error, f"guest {self.name} was starting meanwhile", self._console, progress.seconds())
            raise
        phases = {"start": started - begin, start.phase: ready - started, "banner": banner, "login": login}
        if is_boot:
            # A boot ends with the banner.
            phases[_BOOT] += phases.pop("banner")
        return phases

    def switch_off(self) -> None:
        """Cut the power; if the guest is off already, do nothing."""
        self._on.close()

    def is_healthy(self) -> bool:
        """Whether `Health.check` finds no error and the SSH connection is open."""
        try:
            self.health.check()
        except XhyveError:
            return False
        return self.login.is_open

    def _open_console(self, vm: VirtualMachine, *, is_boot: bool) -> Console:
        """The serial port of *vm*, which has just started; it also shows what earlier starts of the guest printed."""
        console = Console(
            vm.console_log, vm.send_to_console, lambda: self._vm is not vm or vm.exit_status() is not None
        )
        if self._console is not None:
            console.begin = self._console.begin
        elif not is_boot:
            console.begin = console.size
        return console

    def _forget_machine(self) -> None:
        self._vm = None
        for tunnel in self.tunnels.values():
            tunnel.close()
        self.tunnels.clear()
        self.login.disconnect()
