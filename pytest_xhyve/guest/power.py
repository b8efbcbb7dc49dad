"""A guest's machine while it is switched on, and our SSH connection to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from pytest_xhyve.guest.boot_phases import BANNER, FIRMWARE, LOGIN, BootPhases
from pytest_xhyve.guest.console import Console, ConsoleError, ConsoleWatch
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.start import AnyMachine, Start
from pytest_xhyve.hypervisors.base import ExitReason, VirtualMachine
from pytest_xhyve.model.errors import (
    BootFailed,
    BootTimeout,
    ConnectionFailed,
    HypervisorExited,
    KernelPanic,
    LeaseNotFound,
    XhyveError,
)

if TYPE_CHECKING:
    import paramiko

SSH = 22
_BOOT = "boot"
_REFUSED_SECONDS = 1.0
# A guest that goes down cuts its connections first; BusyBox's init gives programs two seconds more.
_END_SECONDS = 3.0
# In a message; whoever reports the error has more of it.
_LAST_LINES = 6


class Power:
    """Switches a guest on and off, connects to it, and tells when it has died.

    Args:
        name: the guest's, for messages.
        instance: states how to log in, how long each step may take, and who gets the phases of a boot.
    """

    def __init__(self, name: str, instance: Instance) -> None:
        self.name = name
        self.image = instance.image
        self.timeouts = instance.timeouts
        self._events = instance.events
        self._progress: BootPhases | None = None
        self._on = ExitStack()
        self._vm: VirtualMachine | None = None
        self._console: Console | None = None
        self._watch: ConsoleWatch | None = None
        self._client: paramiko.SSHClient | None = None
        self._panic: KernelPanic | None = None
        self._start: tuple[str, float] = (_BOOT, self.timeouts.boot)

    @property
    def is_on(self) -> bool:
        """Whether the hypervisor runs."""
        return self._vm is not None and self._vm.exit_status() is None

    @property
    def machine(self) -> VirtualMachine:
        """The running machine.

        Raises:
            XhyveError: it is switched off.
        """
        if self._vm is None:
            raise XhyveError(f"guest {self.name} is off; start() starts it")
        return self._vm

    @property
    def console(self) -> Console:
        """The serial port; what it said stays when the machine is switched off.

        Raises:
            XhyveError: it was never switched on.
        """
        if self._console is None:
            raise XhyveError(f"guest {self.name} was never started")
        return self._console

    def switch_on(self, start: Start[AnyMachine], timeout: float) -> dict[str, float]:
        """Start the machine and connect to it, within *timeout* seconds.

        Returns:
            the seconds that each step took: ``start``, ``boot`` or ``restore``, ``banner``, ``login``.

        Raises:
            BootFailed: it did not come up; the error tells how far it came.
        """
        self._on.close()
        self._start = (start.phase, timeout)
        begin = time.monotonic()
        # Undone in the opposite order: once the machine is gone, closing the connection waits for nothing.
        self._on.callback(self._forget)
        vm = self._on.enter_context(start.running())
        self._vm = vm
        begin_of_console = None if self._console is None else self._console.begin
        self._console = Console(
            vm.console_log, vm.send_to_console, lambda: self._vm is not vm or vm.exit_status() is not None
        )
        if begin_of_console is not None:
            self._console.begin = begin_of_console
        elif start.phase != _BOOT:
            self._console.begin = self._console.size
        progress = self._progress = BootPhases(
            FIRMWARE if start.phase == _BOOT else start.phase, partial(self._events.phase, self.name)
        )
        self._watch = self._console.watch(progress.feed)
        self._panic = None
        started = time.monotonic()
        try:
            start.make_ready(vm)
            ready = time.monotonic()
            if start.phase != _BOOT:
                progress.enter(BANNER)
            banner, login = self.connect(begin + timeout)
        except BootFailed as error:
            progress.stop()
            error.phases = progress.seconds()
            error.hints = self._hints(error, progress)
            raise
        finally:
            self._progress = None
        phases = {"start": started - begin, start.phase: ready - started, "banner": banner, "login": login}
        if start.phase == _BOOT:
            # A guest that boots shows it by nothing but the banner.
            phases[_BOOT] += phases.pop("banner")
        return phases

    def switch_off(self) -> None:
        """Cut the power; nothing happens when it is off already."""
        self._on.close()

    def client(self, timeout: float | None = None) -> paramiko.SSHClient:
        """The connection, made again when it was lost, within *timeout* seconds or as long as a boot may take.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: it answers, and refuses.
        """
        if self._client is not None:
            transport = self._client.get_transport()
            if transport is not None and transport.is_active():
                return self._client
            self.disconnect()
        self.connect(time.monotonic() + (self.timeouts.boot if timeout is None else timeout))
        assert self._client is not None
        return self._client

    def transport(self) -> paramiko.Transport:
        """The connection's transport, as `client` makes it."""
        transport = self.client().get_transport()
        assert transport is not None
        return transport

    def connect(self, end: float) -> tuple[float, float]:
        """Wait until SSH answers and log in, until *end* on the monotonic clock.

        Returns:
            the seconds until the banner came, and those that the login took.
        """
        begin = time.monotonic()
        vm = self.machine
        # paramiko takes as long to import as a command takes to run; the guest boots meanwhile.
        from pytest_xhyve.guest import ssh  # noqa: PLC0415

        while True:
            found = ssh.wait_for_banner(
                lambda: vm.find_endpoint(SSH),
                lambda: vm.count_accepted(SSH),
                self._check_booting,
                end - time.monotonic(),
            )
            if found is None:
                raise self._boot_timeout()
            banner = time.monotonic()
            if self._progress is not None:
                self._progress.enter(LOGIN)
            try:
                self._client = ssh.log_in(
                    *found,
                    user=self.image.user,
                    key=self.image.key,
                    host_keys=self.image.host_keys,
                    timeout=self.timeouts.step,
                )
            except ssh.Broken as error:
                if time.monotonic() > end:
                    failed = ConnectionFailed(str(error))
                    failed.broke = True
                    raise failed from error
            except ssh.Refused as error:
                if time.monotonic() > min(end, begin + self.timeouts.refusal):
                    raise ConnectionFailed(str(error)) from error
                time.sleep(_REFUSED_SECONDS)
            else:
                self._panic = None
                return banner - begin, time.monotonic() - banner

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check_alive(self) -> None:
        """Raise when the hypervisor has ended or the kernel has panicked.

        Raises:
            HypervisorExited: with the hypervisor's own words.
            KernelPanic: with the kernel's.
        """
        self._check(lambda trouble: trouble.panic)

    def is_healthy(self) -> bool:
        """Whether it is on, has met no trouble that can be seen from here, and the connection stands."""
        try:
            self.check_alive()
        except XhyveError:
            return False
        transport = None if self._client is None else self._client.get_transport()
        return transport is not None and transport.is_active()

    def explain_loss(self) -> None:
        """As `check_alive`, for a lost connection, which is noticed a little before the hypervisor's end."""
        self.machine.wait_for_exit(_END_SECONDS)
        self.check_alive()

    def _forget(self) -> None:
        self._vm = None
        self.disconnect()

    def _check_booting(self) -> None:
        """As `check_alive`, and raise `KernelPanic` at anything after which a guest does not come up."""
        self._check(lambda _: True)

    def _check(self, is_fatal: Callable[[ConsoleError], bool]) -> None:
        assert self._watch is not None
        trouble = self._watch.find_error()
        if trouble is not None and is_fatal(trouble):
            what = "the kernel of guest {} panicked" if trouble.panic else "guest {} will not come up"
            self._panic = KernelPanic(
                f"{what.format(self.name)}: {trouble.line}", console=self.console.around(trouble.line)
            )
        if self._panic is not None:
            raise self._panic
        vm = self.machine
        status = vm.exit_status()
        if status is not None:
            ending = vm.exit_reason() or ExitReason.FAILED
            said = vm.output().replace("\n", "\n    ") or "(it said nothing)"
            raise HypervisorExited(
                f"the hypervisor of guest {self.name} ended with code {status}: {ending.value}\n"
                f"  its words:\n    {said}",
                console=self.console.tail(),
            )
        stopped = vm.explain_pause()
        if stopped is not None:
            raise BootFailed(
                f"the hypervisor of guest {self.name} has stopped it: {stopped}", console=self.console.tail()
            )

    def _boot_timeout(self) -> BootFailed:
        why = f" ({self.timeouts.reason})" if self.timeouts.reason else ""
        _, timeout = self._start
        console = self.console.tail(_LAST_LINES)
        silence = self.machine.explain_missing_address()
        if silence is not None:
            return LeaseNotFound(
                f"{self.image.name} has no address after {timeout:g} s{why}: {silence}", console=console
            )
        endpoint = self.machine.find_endpoint(SSH)
        where = f" at {endpoint.host}:{endpoint.port}" if endpoint is not None else ""
        return BootTimeout(f"{self.image.name} did not answer on SSH{where} within {timeout:g} s{why}", console=console)

    def _hints(self, error: BootFailed, progress: BootPhases) -> list[str]:
        """What may help whoever looks for the cause."""
        phase, _ = self._start
        hints = []
        if isinstance(error, BootTimeout | LeaseNotFound):
            longer = "--xhyve-boot-timeout or " if phase == _BOOT else ""
            hints.append(f"give it longer: {longer}--xhyve-timeout-factor=2")
            if progress.is_silent:
                hints.append("see what the kernel does: console=ttyS0 in its command line, in the manifest")
                if not self.timeouts.reason:
                    hints.append("do without acceleration: --xhyve-accel=tcg")
            hints.append("log in when it is up after all: --xhyve-keep=on-failure leaves it running")
        hints.append("read the whole console: --xhyve-artifacts=DIR keeps it")
        return hints
