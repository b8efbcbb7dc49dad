"""Reboot and shut down a guest from inside, with its own commands ``reboot`` and ``poweroff``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_xhyve.guest.power import Power
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import (
    BootFailed,
    BootTimeout,
    CommandFailed,
    ConnectionFailed,
    HypervisorExited,
    XhyveError,
)

if TYPE_CHECKING:
    from pytest_xhyve.guest.waits import Run

# `reboot` and `poweroff` of systemd ask its login manager, which a system starts late in its boot. systemd itself takes
# the same job at once, and stops each unit as they do (systemd.special(7)). It drops the jobs of a boot that goes on.
_LINE = """
if [ -d /run/systemd/system ] && systemctl --no-block --job-mode=replace-irreversibly start {command}.target 2>/dev/null
then :; else exec {command}; fi
"""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LOOK_SECONDS = 0.25
# A kernel whose console is silent reports no end.
_ENDING_SECONDS = 5.0
# Some hypervisors exit when their guest restarts; a kernel may restart by a triple fault (reboot=t).
_RESTART_REASONS = (ExitReason.RESTARTED, ExitReason.TRIPLE_FAULT)


def reboot(power: Power, run: Run, start: Callable[[], None]) -> None:
    """See `pytest_xhyve.Guest.reboot`; if the hypervisor exits on a restart, *start* boots the guest."""
    __tracebackhide__ = True
    before = _boot_id(run)
    _run_last_command(power, "reboot")
    # Until then, a login would only keep a guest busy that is about to go down.
    power.health.wait_for_ending(_ENDING_SECONDS)
    _wait_for_restart(power, run, start, before, power.timeouts.shutdown + power.timeouts.boot)


@contextmanager
def expect_reboot(power: Power, run: Run, start: Callable[[], None], timeout: float | None) -> Iterator[None]:
    """See `pytest_xhyve.Guest.expect_reboot`."""
    __tracebackhide__ = True
    before = _boot_id(run)
    limit = power.timeouts.shutdown + power.timeouts.boot if timeout is None else timeout
    try:
        yield
    except (CommandFailed, ConnectionFailed, HypervisorExited) as error:
        if not _may_be_restart(power, error):
            raise
        try:
            _wait_for_restart(power, run, start, before, limit)
        except BootFailed as failed:
            raise failed from error
    else:
        _wait_for_restart(power, run, start, before, limit)


def _may_be_restart(power: Power, error: CommandFailed | ConnectionFailed | HypervisorExited) -> bool:
    """Whether a restart of the guest may be why a command ended with *error*."""
    if isinstance(error, CommandFailed):
        # A restart kills the command: it has no exit code of its own.
        return error.completed.returncode == -1
    if isinstance(error, ConnectionFailed):
        return error.broke
    return power.machine.exit_reason() in _RESTART_REASONS


def _wait_for_restart(power: Power, run: Run, start: Callable[[], None], before: str, timeout: float) -> None:
    """Wait until the guest answers with another boot id than *before*."""
    __tracebackhide__ = True
    power.login.expect_boot()
    end = monotonic() + timeout
    while monotonic() < end:
        power.login.disconnect()
        try:
            power.login.connect(end)
            if _boot_id(run) != before:
                return
        except HypervisorExited:
            if power.machine.exit_reason() not in _RESTART_REASONS:
                raise
            start()
            return
        except BootFailed:
            raise
        except XhyveError:
            # The guest went down while the command ran.
            pass
        time.sleep(_LOOK_SECONDS)
    raise BootTimeout(f"guest {power.name} did not reboot within {timeout:g} s", console=power.console.tail())


def shut_down(power: Power) -> None:
    """See `pytest_xhyve.Guest.shutdown`."""
    __tracebackhide__ = True
    vm, timeouts = power.machine, power.timeouts
    tried = "`poweroff` was run"
    try:
        power.login.client(timeouts.step)
        code = _run_last_command(power, "poweroff")
    except XhyveError as error:
        tried = f"the power button was pressed, since the guest does not answer over SSH: {str(error).splitlines()[0]}"
        vm.press_power_button()
    else:
        if code not in (0, -1):
            tried = f"`poweroff` failed with exit code {code}, and the power button was pressed"
            vm.press_power_button()
    if vm.wait_for_exit(timeouts.shutdown) is None:
        raise BootTimeout(
            f"guest {power.name} did not shut down within {timeouts.shutdown:g} s ({tried}); kill() cuts its power",
            console=power.console.tail(),
        )
    power.switch_off()


def _run_last_command(power: Power, command: str) -> int:
    """Reboot or power off, and disconnect; return the exit code, or -1 if the connection broke first.

    Args:
        power: of the guest.
        command: ``reboot`` or ``poweroff``.
    """
    import paramiko  # noqa: PLC0415

    from pytest_xhyve.guest.shell import shell_line  # noqa: PLC0415
    from pytest_xhyve.guest.streams import Output  # noqa: PLC0415

    line = shell_line(
        _LINE.format(command=command),
        env=None,
        user="root",
        login_user=power.image.user,
        timeout=None,
        password=power.image.password,
    )
    connection = power.login.connection()
    check = connection.checker(command)
    try:
        with connection.begin(line.text, command, check) or contextlib.nullcontext() as channel:
            if channel is None:
                return -1
            channel.settimeout(connection.stall)
            if line.first_input:
                channel.sendall(line.first_input)
            return Output(connection, channel, check).exit_code()
    except (BootFailed, ConnectionFailed, EOFError, OSError, paramiko.SSHException):
        return -1
    finally:
        power.login.disconnect()


def _boot_id(run: Run) -> str:
    return run(["cat", _BOOT_ID]).stdout.strip()
