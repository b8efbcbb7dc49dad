"""Whether a guest still runs: its hypervisor, its kernel, the switches of its LANs, and its answers over SSH."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.kernel_watch import ANSWER_SECONDS, KernelWatch
from pytest_xhyve.guest.lans import GuestLans
from pytest_xhyve.hypervisors.base import ExitReason, VirtualMachine
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, HypervisorExited

if TYPE_CHECKING:
    from pytest_xhyve.guest.pulse import Pulse

_LOOK_SECONDS = 0.05


class Health:
    """Finds out what has happened to a guest that does not do what is expected.

    Args:
        name: the guest's name, for messages.
        find_machine: returns the running machine; raises `XhyveError` if the guest is off.
        lans: the LANs that the guest is on.
    """

    def __init__(self, name: str, find_machine: Callable[[], VirtualMachine], lans: GuestLans) -> None:
        self._name = name
        self._find_machine = find_machine
        self._lans = lans
        self._console: Console | None = None
        self._kernel: KernelWatch | None = None
        # Of the console's output; None until the first login after each start.
        self._size_at_login: int | None = None
        self.pulse: Pulse | None = None
        """Of the SSH connection that stands; None without one."""

    def watch(self, console: Console, saw: Callable[[bytes], None]) -> None:
        """Begin anew, with a machine that has just started.

        Args:
            console: its console.
            saw: called with each piece of the console's new output.
        """
        self._console = console
        self._kernel = KernelWatch(self._name, console, saw)
        self._size_at_login = None

    def logged_in(self) -> None:
        """Forget what the console has shown so far: the guest has let the plugin log in."""
        if self._kernel is not None and self._console is not None:
            self._kernel.forget()
            self._size_at_login = self._console.size

    @property
    def ending(self) -> str | None:
        """The message with which the kernel has halted or restarted; None if it has not since the last login."""
        return None if self._kernel is None else self._kernel.ending

    @property
    def suspicion(self) -> str | None:
        """A message on the console after which a guest cannot boot, as long as it does not count."""
        return None if self._kernel is None else self._kernel.suspicion

    @property
    def may_boot(self) -> bool:
        """Whether the guest may be booting, since it has not let the plugin log in, or restarts."""
        return self._size_at_login is None or self._kernel is None or self._kernel.has_restarted(self._size_at_login)

    def silence(self) -> float:
        """For how many seconds the guest has not answered over SSH; 0 without a connection."""
        return 0.0 if self.pulse is None else self.pulse.silence()

    def check(self) -> None:
        """Raise an error if the guest has died.

        Raises:
            HypervisorExited: the hypervisor has exited; the message contains its output.
            KernelPanic: the kernel has panicked; the message contains the kernel's.
            LanFailed: the switch of one of its LANs has died.
            BootFailed: the hypervisor has paused the guest.
            XhyveError: the guest is off.
        """
        self._check()

    def check_booting(self) -> None:
        """Like `check`, but raise `KernelPanic` also for any other error after which a guest cannot boot.

        Over no connection yet, a guest cannot show that it answers. So the error counts once the console is silent for
        some seconds, or shows that the kernel restarts.
        """
        self._check(is_booting=True)
        self.check_halted()

    def check_halted(self) -> None:
        """Raise an error if the kernel has halted.

        Raises:
            BootFailed: the kernel has halted.
        """
        if self._kernel is not None:
            self._kernel.check_halted()

    def wait_for_ending(self, timeout: float) -> None:
        """Wait until the console shows that the kernel halts or restarts, or the machine is off.

        Args:
            timeout: the limit in seconds.

        Raises:
            KernelPanic: the kernel has panicked.
        """
        end = monotonic() + timeout
        while self.ending is None and monotonic() < end:
            try:
                self.check()
            except HypervisorExited:
                return
            time.sleep(_LOOK_SECONDS)

    def _answers(self) -> bool:
        """Whether the guest answers over a connection that stands. Any program can write a panic on the console."""
        pulse = self.pulse
        return pulse is not None and pulse.answers(ANSWER_SECONDS)

    def _check(self, *, is_booting: bool = False) -> None:
        assert self._kernel is not None
        assert self._console is not None
        self._kernel.check(self._answers, is_booting=is_booting)
        vm = self._find_machine()
        status = vm.exit_status()
        if status is not None:
            reason = vm.exit_reason() or ExitReason.FAILED
            output = vm.output().replace("\n", "\n    ") or "(no output)"
            raise HypervisorExited(
                f"the hypervisor of guest {self._name} ended with exit code {status}: {reason.value}\n"
                f"  its output:\n    {output}",
                console=self._console.tail(),
            )
        self._lans.check()
        pause = vm.explain_pause()
        if pause is not None:
            raise BootFailed(
                f"the hypervisor of guest {self._name} has paused it: {pause}", console=self._console.tail()
            )
