"""A guest's machine while it is switched on, and the plugin's SSH connection to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_xhyve.guest.boot_errors import hints, timeout_error
from pytest_xhyve.guest.boot_phases import BANNER, FIRMWARE, LOGIN, BootPhases
from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.instance import Instance
from pytest_xhyve.guest.kernel_watch import ANSWER_SECONDS, KernelWatch
from pytest_xhyve.guest.start import AnyMachine, Start
from pytest_xhyve.hypervisors.base import ExitReason, VirtualMachine
from pytest_xhyve.model.architecture import architecture_of
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import (
    BootFailed,
    ConnectionFailed,
    HypervisorExited,
    XhyveError,
)
from pytest_xhyve.model.machine import SSH_PORT, Machine

if TYPE_CHECKING:
    import paramiko

    from pytest_xhyve.guest.connection import Connection
    from pytest_xhyve.guest.pulse import Pulse
    from pytest_xhyve.guest.tunnel import Tunnel

_BOOT = "boot"
_REFUSED_SECONDS = 1.0
_LOOK_SECONDS = 0.05
# A guest that goes down cuts its connections first; BusyBox's init gives programs two seconds more.
_END_SECONDS = 3.0


def _do_nothing(may_have_booted: bool) -> None:
    """What a guest needs after a login that has nothing to be set."""


class Power:
    """Switches a guest on and off, connects to it, and checks that it is alive.

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
        self._phases: BootPhases | None = None
        self._on = ExitStack()
        self._vm: VirtualMachine | None = None
        self._console: Console | None = None
        self._kernel: KernelWatch | None = None
        self._client: paramiko.SSHClient | None = None
        self._pulse: Pulse | None = None
        self.tunnels: dict[int, Tunnel] = {}
        """The ports that are reached over SSH, until the machine is switched off."""
        # Held while a thread connects, so that the other ones get its connection.
        self._connecting = threading.RLock()
        self._may_boot = True
        # Of the console's output; None until the first login after each start.
        self._size_at_login: int | None = None
        self._start: tuple[str, float] = (_BOOT, self.timeouts.boot)
        self.started_by: Start[Any] | None = None
        """How the machine was started; None before the first start."""
        self.after_login: Callable[[bool], None] = _do_nothing
        """Called after each login, with whether the guest may have booted; it may use the connection."""

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
        self._start = (start.phase, timeout)
        self.started_by = start
        begin = monotonic()
        # The stack closes the machine first: after that, closing the connection does not wait.
        self._on.callback(self._forget_machine)
        vm = self._on.enter_context(start.running())
        self._vm = vm
        self._lans.connect(vm)
        begin_of_console = None if self._console is None else self._console.begin
        self._console = Console(
            vm.console_log, vm.send_to_console, lambda: self._vm is not vm or vm.exit_status() is not None
        )
        if begin_of_console is not None:
            self._console.begin = begin_of_console
        elif start.phase != _BOOT:
            self._console.begin = self._console.size
        progress = self._phases = BootPhases(
            FIRMWARE if start.phase == _BOOT else start.phase, partial(self._events.phase, self.name)
        )
        self._kernel = KernelWatch(self.name, self._console, progress.feed)
        self._may_boot = True
        self._size_at_login = None
        started = monotonic()
        try:
            start.make_ready(vm)
            self._lans.link_up(vm)
            ready = monotonic()
            if start.phase != _BOOT:
                progress.enter(BANNER)
            banner, login = self.connect(begin + timeout)
        except BootFailed as error:
            progress.stop()
            error.phases = progress.seconds()
            error.hints = hints(
                error,
                start.phase,
                self.timeouts,
                is_silent=progress.is_silent,
                has_boot_loader=self._has_boot_loader,
                suspicion=self._kernel.suspicion,
                serial_port=architecture_of(self.image.arch).console,
            )
            raise
        finally:
            self._phases = None
        phases = {"start": started - begin, start.phase: ready - started, "banner": banner, "login": login}
        if start.phase == _BOOT:
            # A boot ends with the banner.
            phases[_BOOT] += phases.pop("banner")
        return phases

    def switch_off(self) -> None:
        """Cut the power; if the guest is off already, do nothing."""
        self._on.close()

    def client(self, timeout: float | None = None) -> paramiko.SSHClient:
        """The SSH connection; if it is lost, a new one.

        Args:
            timeout: seconds until a new connection is open; None for the limit of a boot.

        Raises:
            BootFailed: the guest does not answer any more.
            ConnectionFailed: the guest answers, but the login failed.
        """
        with self._connecting:
            if self._client is not None:
                transport = self._client.get_transport()
                if transport is not None and transport.is_active():
                    return self._client
                self.disconnect()
            self.connect(monotonic() + (self._patience() if timeout is None else timeout))
            assert self._client is not None
            return self._client

    def _patience(self) -> float:
        """How long a connection that is lost may take to be made again: that of a boot only if the guest may boot."""
        if self._size_at_login is None or self._kernel is None or self._kernel.has_restarted(self._size_at_login):
            return self.timeouts.boot
        return self.timeouts.step

    def transport(self, timeout: float | None = None) -> paramiko.Transport:
        """The transport of the connection that `client` returns."""
        transport = self.client(timeout).get_transport()
        assert transport is not None
        return transport

    def connect(self, end: float) -> tuple[float, float]:
        """Wait until SSH answers, and log in.

        Args:
            end: when to give up, as `monotonic` counts.

        Returns:
            the seconds until the banner, and the seconds of the login.

        Raises:
            BootFailed: the guest does not answer.
            ConnectionFailed: the guest answers, but the login failed.
        """
        begin = monotonic()
        vm = self.machine
        # The import of paramiko takes as long as a command; here, the guest boots meanwhile.
        from pytest_xhyve.guest import ssh  # noqa: PLC0415

        grace = ssh.Grace(self.timeouts.refusal)
        while True:
            found = ssh.wait_for_banner(
                lambda: vm.find_endpoint(SSH_PORT),
                lambda: vm.count_accepted(SSH_PORT),
                self._check_booting,
                end - monotonic(),
            )
            if found is None:
                limit = self._start[1] if self._phases is not None else end - begin
                raise timeout_error(vm, self.console, self.image, self.timeouts, limit)
            banner = monotonic()
            if self._phases is not None:
                self._phases.enter(LOGIN)
            try:
                self._client, self._pulse = ssh.log_in(
                    *found,
                    user=self.image.user,
                    key=self.image.key,
                    password=self.image.password,
                    host_keys=self.image.host_keys,
                    timeout=self.timeouts.step,
                )
            except ssh.Broken as error:
                if monotonic() > end:
                    failed = ConnectionFailed(str(error))
                    failed.broke = True
                    raise failed from error
            except ssh.Refused as error:
                if not (self._may_boot or self._ending) or grace.is_over() or monotonic() > end:
                    raise ConnectionFailed(str(error)) from error
                time.sleep(_REFUSED_SECONDS)
            else:
                self._may_boot = False
                if self._kernel is not None:
                    self._kernel.forget()
                    self._size_at_login = self.console.size
                seconds = banner - begin, monotonic() - banner
                self.after_login(self._phases is None or self._start[0] == _BOOT)
                return seconds

    def expect_boot(self) -> None:
        """Let the next `connect` take a refused login for that of a guest that is booting."""
        self._may_boot = True

    def disconnect(self) -> None:
        """Close the SSH connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = self._pulse = None

    def check_alive(self) -> None:
        """Raise an error if the guest has died.

        Raises:
            HypervisorExited: the hypervisor has exited; the message contains its output.
            KernelPanic: the kernel has panicked; the message contains the kernel's.
            LanFailed: the switch of one of its LANs has died.
            BootFailed: the hypervisor has paused the guest.
            XhyveError: the guest is off.
        """
        self._check()

    def connection(self, timeout: float | None = None) -> Connection:
        """The connection that `client` makes, with the checks for each wait on it."""
        from pytest_xhyve.guest.connection import Connection  # noqa: PLC0415

        def connect() -> tuple[paramiko.Transport, set[paramiko.Channel]]:
            with self._connecting:
                transport = self.transport(timeout)
                assert self._pulse is not None
                return transport, self._pulse.sessions

        transport, sessions = connect()
        return Connection(
            self.name,
            transport,
            self.check_answers,
            self.explain_loss,
            self.silence,
            self.timeouts.step,
            sessions,
            connect,
        )

    def silence(self) -> float:
        """For how many seconds the guest has not answered over SSH; 0 without a connection."""
        pulse = self._pulse
        return 0.0 if pulse is None else pulse.silence()

    def check_answers(self, since: float, limit: float) -> None:
        """Like `check_alive`, but also close the connection if the guest has not answered for *limit* seconds.

        Args:
            since: when the wait began, on the monotonic clock; only the time from here on counts.
            limit: seconds. If the console shows that the kernel has halted or restarts, a few seconds are enough.

        Raises:
            BootFailed: the kernel has halted.
            ConnectionFailed: the guest does not answer, or restarts.
        """
        self.check_alive()
        silence = min(self.silence(), monotonic() - since)
        ending = self._ending
        if ending is not None and silence > min(limit, ANSWER_SECONDS):
            self.disconnect()
            self._check_halted()
            self.expect_boot()
            raise ConnectionFailed(f"guest {self.name} restarts ({ending!r} on its console) and lost the connection")
        if silence > limit:
            self.disconnect()
            self.expect_boot()
            raise ConnectionFailed(
                f"guest {self.name} was silent for {silence:.0f} s: its SSH server answered no keepalive\n"
                "  its network may be down, or its kernel may have stopped; guest.console.tail() shows its last lines\n"
                "  kill() and start() boot it again; if it is slow: --xhyve-timeout-factor=2"
            )

    def wait_for_ending(self, timeout: float) -> None:
        """Wait until the console shows that the kernel halts or restarts, or the machine is off.

        Args:
            timeout: the limit in seconds.

        Raises:
            KernelPanic: the kernel has panicked.
        """
        end = monotonic() + timeout
        while self._ending is None and monotonic() < end:
            try:
                self.check_alive()
            except HypervisorExited:
                return
            time.sleep(_LOOK_SECONDS)

    def is_healthy(self) -> bool:
        """Whether `check_alive` finds no error and the SSH connection is open."""
        try:
            self.check_alive()
        except XhyveError:
            return False
        transport = None if self._client is None else self._client.get_transport()
        return transport is not None and transport.is_active()

    def explain_loss(self) -> None:
        """Like `check_alive`, after the connection is lost: it breaks a little before the hypervisor exits."""
        self.expect_boot()
        self.machine.wait_for_exit(_END_SECONDS)
        self.check_alive()

    def _forget_machine(self) -> None:
        self._vm = None
        for tunnel in self.tunnels.values():
            tunnel.close()
        self.tunnels.clear()
        self.disconnect()

    def _check_booting(self) -> None:
        """Like `check_alive`, but raise `KernelPanic` also for any other error after which a guest cannot boot.

        Over no connection yet, a guest cannot show that it answers. So the error counts once the console is silent for
        some seconds, or shows that the kernel restarts.
        """
        self._check(is_booting=True)
        self._check_halted()

    def _answers(self) -> bool:
        """Whether the guest answers over a connection that stands. Any program can write a panic on the console."""
        pulse = self._pulse
        return pulse is not None and pulse.answers(ANSWER_SECONDS)

    @property
    def _ending(self) -> str | None:
        return None if self._kernel is None else self._kernel.ending

    def _check_halted(self) -> None:
        if self._kernel is not None:
            self._kernel.check_halted()

    def _check(self, *, is_booting: bool = False) -> None:
        assert self._kernel is not None
        self._kernel.check(self._answers, is_booting=is_booting)
        vm = self.machine
        status = vm.exit_status()
        if status is not None:
            reason = vm.exit_reason() or ExitReason.FAILED
            output = vm.output().replace("\n", "\n    ") or "(no output)"
            raise HypervisorExited(
                f"the hypervisor of guest {self.name} ended with exit code {status}: {reason.value}\n"
                f"  its output:\n    {output}",
                console=self.console.tail(),
            )
        self._lans.check()
        pause = vm.explain_pause()
        if pause is not None:
            raise BootFailed(f"the hypervisor of guest {self.name} has paused it: {pause}", console=self.console.tail())
