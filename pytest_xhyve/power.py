"""A guest's machine while it is switched on, and our SSH connection to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_xhyve.console import Console, ConsoleWatch, Trouble
from pytest_xhyve.errors import (
    BootFailed,
    BootTimeout,
    HypervisorExited,
    KernelPanic,
    LeaseNotFound,
    XhyveError,
)
from pytest_xhyve.hypervisors.base import Ending, VirtualMachine
from pytest_xhyve.images.manifest import Image

if TYPE_CHECKING:
    import paramiko

SSH = 22
_REFUSED_SECONDS = 1.0
_END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a guest may take, in seconds, with every factor in it.

    Attributes:
        boot: from the hypervisor's start to a login.
        shutdown: from the request to the hypervisor's end.
        step: one step of a protocol, such as the SSH handshake.
        refusal: how long a booting guest may refuse a login.
        why: what a message adds about them, as ``emulated``.
    """

    boot: float
    shutdown: float
    step: float
    refusal: float
    why: str = ""


class Power:
    """Switches a guest on and off, connects to it, and tells when it has died.

    Args:
        name: the guest's, for messages.
        image: tells how to log in.
        running: starts the machine, for the time of a block.
        timeouts: how long each may take.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        running: Callable[[], AbstractContextManager[VirtualMachine]],
        timeouts: Timeouts,
    ) -> None:
        self._name = name
        self._image = image
        self._running = running
        self._timeouts = timeouts
        self._on = ExitStack()
        self._vm: VirtualMachine | None = None
        self._console: Console | None = None
        self._watch: ConsoleWatch | None = None
        self._client: paramiko.SSHClient | None = None
        self._panic: KernelPanic | None = None

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
            raise XhyveError(f"guest {self._name} is off; start() starts it")
        return self._vm

    @property
    def console(self) -> Console:
        """The serial port; what it said stays when the machine is switched off.

        Raises:
            XhyveError: it was never switched on.
        """
        if self._console is None:
            raise XhyveError(f"guest {self._name} was never started")
        return self._console

    def switch_on(self) -> dict[str, float]:
        """Start the machine and connect to it.

        Returns:
            the seconds that each step took: ``start``, ``boot``, ``login``.

        Raises:
            BootFailed: it did not come up.
        """
        self._on.close()
        begin = time.monotonic()
        # Undone in the opposite order: once the machine is gone, closing the connection waits for nothing.
        self._on.callback(self._forget)
        self._vm = self._on.enter_context(self._running())
        self._console = Console(self._vm.console_log, self._vm.send_to_console)
        self._watch = self._console.watch()
        self._panic = None
        started = time.monotonic()
        boot, login = self.connect(begin + self._timeouts.boot)
        return {"start": started - begin, "boot": boot, "login": login}

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
        self.connect(time.monotonic() + (self._timeouts.boot if timeout is None else timeout))
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
        from pytest_xhyve import ssh  # noqa: PLC0415

        while True:
            found = ssh.wait_for_banner(
                lambda: vm.find_endpoint(SSH),
                lambda: vm.count_taken(SSH),
                self._check_booting,
                end - time.monotonic(),
            )
            if found is None:
                raise self._boot_timeout()
            banner = time.monotonic()
            try:
                self._client = ssh.log_in(
                    *found,
                    user=self._image.user,
                    key=self._image.key,
                    host_keys=self._image.host_keys,
                    timeout=self._timeouts.step,
                )
            except ssh.Broken:
                if time.monotonic() > end:
                    raise
            except ssh.Refused:
                if time.monotonic() > min(end, begin + self._timeouts.refusal):
                    raise
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

    def _check(self, is_fatal: Callable[[Trouble], bool]) -> None:
        assert self._watch is not None
        trouble = self._watch.find_trouble()
        if trouble is not None and is_fatal(trouble):
            what = "the kernel of guest {} panicked" if trouble.panic else "guest {} will not come up"
            self._panic = KernelPanic(
                f"{what.format(self._name)}: {trouble.line}", console=self.console.around(trouble.line)
            )
        if self._panic is not None:
            raise self._panic
        vm = self.machine
        status = vm.exit_status()
        if status is not None:
            ending = vm.ending() or Ending.FAILED
            said = vm.words().replace("\n", "\n    ") or "(it said nothing)"
            raise HypervisorExited(
                f"the hypervisor of guest {self._name} ended with code {status}: {ending.value}\n"
                f"  its words:\n    {said}",
                console=self.console.tail(),
            )

    def _boot_timeout(self) -> BootFailed:
        why = f" ({self._timeouts.why})" if self._timeouts.why else ""
        silence = self.machine.explain_silence()
        if silence is not None:
            return LeaseNotFound(
                f"{self._image.name} has no address after {self._timeouts.boot:g} s{why}: {silence}\n"
                "  still booting, by its console: give it longer with --xhyve-boot-timeout or --xhyve-timeout-factor",
                console=self.console.tail(),
            )
        endpoint = self.machine.find_endpoint(SSH)
        where = f" at {endpoint.host}:{endpoint.port}" if endpoint is not None else ""
        return BootTimeout(
            f"{self._image.name} did not answer on SSH{where} within {self._timeouts.boot:g} s{why}\n"
            "  give it longer with --xhyve-boot-timeout or --xhyve-timeout-factor, or see below what it waits for",
            console=self.console.tail(),
        )
