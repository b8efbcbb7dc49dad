"""A guest's end and restart from inside, as its own `reboot` and `poweroff` do it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from pytest_xhyve.guest.power import Timeouts
from pytest_xhyve.hypervisors.base import Ending
from pytest_xhyve.model.errors import BootFailed, BootTimeout, HypervisorExited, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LOOK_SECONDS = 0.25
# Some hypervisors end when their guest restarts; a kernel that restarts by a triple fault looks so (reboot=t).
_ENDED_BY_RESTART = (Ending.RESTARTED, Ending.TRIPLE_FAULT)


def reboot(guest: Guest, timeouts: Timeouts) -> None:
    """See `pytest_xhyve.Guest.reboot`."""
    __tracebackhide__ = True
    power = guest.power
    before = _boot_id(guest)
    end = time.monotonic() + timeouts.shutdown + timeouts.boot
    _say_goodbye(guest, "reboot", timeouts)
    while time.monotonic() < end:
        try:
            power.connect(end)
            if _boot_id(guest) != before:
                return
        except HypervisorExited:
            if power.machine.ending() not in _ENDED_BY_RESTART:
                raise
            guest.start()
            return
        except BootFailed:
            raise
        except XhyveError:
            # It went down while it was being asked.
            pass
        power.disconnect()
        time.sleep(_LOOK_SECONDS)
    raise BootTimeout(f"guest {guest.name} was asked to reboot and did not", console=guest.console.tail())


def shut_down(guest: Guest, timeouts: Timeouts) -> None:
    """See `pytest_xhyve.Guest.shutdown`."""
    __tracebackhide__ = True
    vm = guest.power.machine
    try:
        guest.power.client(timeouts.step)
        _say_goodbye(guest, "poweroff", timeouts)
    except XhyveError:
        vm.press_power_button()
    if vm.wait_for_exit(timeouts.shutdown) is None:
        raise BootTimeout(
            f"guest {guest.name} did not shut down within {timeouts.shutdown:g} s; kill() cuts its power",
            console=guest.console.tail(),
        )
    guest.power.switch_off()


def _say_goodbye(guest: Guest, command: str, timeouts: Timeouts) -> None:
    """Run a command that ends the connection, and close it when it is answered or cut."""
    import paramiko  # noqa: PLC0415

    from pytest_xhyve.guest.commands import shell_line  # noqa: PLC0415

    line = shell_line(command, env=None, user="root", login_user=guest.image.user, timeout=None)
    channel = guest.power.transport().open_session()
    with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
        channel.exec_command(line)
        channel.settimeout(timeouts.shutdown)
        channel.recv_exit_status()
    guest.power.disconnect()


def _boot_id(guest: Guest) -> str:
    return guest.run(["cat", _BOOT_ID]).stdout.strip()
