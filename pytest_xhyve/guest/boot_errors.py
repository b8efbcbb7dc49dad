"""The errors of a guest that did not boot in time, and what the user can try."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_xhyve.guest.console import Console
from pytest_xhyve.guest.kernel_watch import LAST_LINES
from pytest_xhyve.hypervisors.base import VirtualMachine
from pytest_xhyve.model.errors import BootFailed, BootTimeout, KernelPanic, LeaseNotFound, XhyveError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import SSH_PORT
from pytest_xhyve.model.timeouts import Timeouts


def timeout_error(vm: VirtualMachine, console: Console, image: Image, timeouts: Timeouts, seconds: float) -> BootFailed:
    """The error of a guest that did not answer on SSH.

    Args:
        vm: its machine.
        console: its console.
        image: its image.
        timeouts: why the limits are longer than usual.
        seconds: how long the plugin has waited.
    """
    reason = f" ({timeouts.reason})" if timeouts.reason else ""
    last = console.tail(LAST_LINES)
    missing = vm.explain_missing_address()
    if missing is not None:
        return LeaseNotFound(
            f"{image.name} has no address after {round(seconds, 2):g} s{reason}: {missing}", console=last
        )
    endpoint = vm.find_endpoint(SSH_PORT)
    where = f" at {endpoint.host}:{endpoint.port}" if endpoint is not None else ""
    return BootTimeout(
        f"{image.name} did not answer on SSH{where} within {round(seconds, 2):g} s{reason}", console=last
    )


def note_console(error: BaseException, doing: str, console: Console, phases: Mapping[str, float] | None = None) -> None:
    """Add to *error* what a guest's console shows, if the error did not arise from the guest.

    Another plugin may end a test before a limit of this plugin is over: pytest-timeout raises an error in the middle of
    a wait, and that error alone would not show what the guest did.

    Args:
        error: an error of any kind; one of this plugin stays as it is.
        doing: which guest did what meanwhile.
        console: the guest's console.
        phases: the seconds of each phase of its start; None if it has started.
    """
    if isinstance(error, XhyveError):
        return
    state = BootFailed(doing, console=console.tail(LAST_LINES))
    state.phases = phases or {}
    error.add_note(str(state))


def hints(
    error: BootFailed,
    phase: str,
    timeouts: Timeouts,
    *,
    is_silent: bool,
    has_boot_loader: bool,
    suspicion: str | None,
    serial_port: str,
) -> list[str]:
    """What the user can try after *error*, one line each.

    Args:
        error: why the guest did not start.
        phase: ``boot`` or ``restore``.
        timeouts: why the limits are longer than usual.
        is_silent: whether the console has shown nothing.
        has_boot_loader: whether the guest boots by the boot loader of its disk.
        suspicion: a message after which a guest cannot boot, although the console went on; or None.
        serial_port: the guest's name of its serial port.
    """
    found = []
    if suspicion is not None and not isinstance(error, KernelPanic):
        found.append(f"the console went on after {suspicion!r}: see what printed that")
    if isinstance(error, BootTimeout | LeaseNotFound):
        longer = "--xhyve-boot-timeout or " if phase == "boot" else ""
        found.append(f"give it more time: {longer}--xhyve-timeout-factor=2")
        if is_silent:
            where = "the kernel's command line on the disk" if has_boot_loader else "cmdline in the manifest"
            found.append(f"see the kernel's messages: add console={serial_port} to {where}")
            if not timeouts.reason:
                found.append("run without acceleration: --xhyve-accel=tcg")
        found.append("log in if it boots after all: --xhyve-keep=on-failure leaves it running")
    found.append("read the whole console: --xhyve-artifacts=DIR keeps it")
    return found
