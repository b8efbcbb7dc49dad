"""A guest's end and restart from inside, as its own `reboot` and `poweroff` do it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_xhyve.guest.power import Power
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.model.errors import BootFailed, BootTimeout, HypervisorExited, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.waits import Run

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LOOK_SECONDS = 0.25
# Some hypervisors end when their guest restarts; a kernel that restarts by a triple fault looks so (reboot=t).
_ENDED_BY_RESTART = (ExitReason.RESTARTED, ExitReason.TRIPLE_FAULT)


def reboot(power: Power, run: Run, start: Callable[[], None]) -> None:
    """See `pytest_xhyve.Guest.reboot`; *start* boots the guest where its hypervisor ends with it."""
    __tracebackhide__ = True
    before = _boot_id(run)
    end = time.monotonic() + power.timeouts.shutdown + power.timeouts.boot
    _say_goodbye(power, "reboot")
    while time.monotonic() < end:
        try:
            power.connect(end)
            if _boot_id(run) != before:
                return
        except HypervisorExited:
            if power.machine.exit_reason() not in _ENDED_BY_RESTART:
                raise
            start()
            return
        except BootFailed:
            raise
        except XhyveError:
            # It went down while it was being asked.
            pass
        power.disconnect()
        time.sleep(_LOOK_SECONDS)
    raise BootTimeout(f"guest {power.name} was asked to reboot and did not", console=power.console.tail())


def shut_down(power: Power) -> None:
    """See `pytest_xhyve.Guest.shutdown`."""
    __tracebackhide__ = True
    vm, timeouts = power.machine, power.timeouts
    try:
        power.client(timeouts.step)
        _say_goodbye(power, "poweroff")
    except XhyveError:
        vm.press_power_button()
    if vm.wait_for_exit(timeouts.shutdown) is None:
        raise BootTimeout(
            f"guest {power.name} did not shut down within {timeouts.shutdown:g} s; kill() cuts its power",
            console=power.console.tail(),
        )
    power.switch_off()


def _say_goodbye(power: Power, command: str) -> None:
    """Run a command that ends the connection, and close it when it is answered or cut."""
    import paramiko  # noqa: PLC0415

    from pytest_xhyve.guest.commands import shell_line  # noqa: PLC0415

    line = shell_line(command, env=None, user="root", login_user=power.image.user, timeout=None)
    channel = power.transport().open_session()
    with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
        channel.exec_command(line)
        channel.settimeout(power.timeouts.shutdown)
        channel.recv_exit_status()
    power.disconnect()


def _boot_id(run: Run) -> str:
    return run(["cat", _BOOT_ID]).stdout.strip()
