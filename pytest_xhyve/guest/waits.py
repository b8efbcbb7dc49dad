"""Waiting for what happens in a guest: a command that succeeds, a port, a unit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from pytest_xhyve.guest.shell import Command
from pytest_xhyve.model.errors import CommandTimeout, WaitTimeout, XhyveError

if TYPE_CHECKING:
    from pytest_xhyve.guest.power import Power
    from pytest_xhyve.model.completed import Completed


class Run(Protocol):
    """`pytest_xhyve.Guest.run`."""

    def __call__(self, command: Command, *, check: bool = True, timeout: float | None = None) -> Completed: ...


def wait_for_units(run: Run, timeout: float) -> str:
    """Wait until systemd, if the guest has it, has started all units; a failed unit is not an error here.

    Returns:
        the state of the system, as systemctl(1) names it: ``starting`` if it was not ready within *timeout* seconds.
    """
    line = "if [ -d /run/systemd/system ]; then systemctl is-system-running --wait; else echo running; fi"
    with contextlib.suppress(CommandTimeout):
        return run(line, check=False, timeout=timeout).stdout.strip()
    return "starting"


def wait_for_success(run: Callable[[float], Completed], timeout: float) -> Completed:
    """See `pytest_xhyve.Guest.wait_for`; *run* runs the command, for so many seconds at most."""
    __tracebackhide__ = True
    last: list[Completed] = []
    end = time.monotonic() + timeout

    def attempt() -> bool:
        try:
            last[:] = [run(max(1.0, end - time.monotonic()))]
        except CommandTimeout as error:
            last[:] = [error.completed]
        return last[0].returncode == 0

    if not _becomes_true(attempt, timeout):
        raise WaitTimeout(f"did not succeed within {timeout:g} s; last:\n{last[0].report()}")
    return last[0]


def wait_for_port(run: Run, power: Power, port: int, timeout: float) -> None:
    """See `pytest_xhyve.Guest.wait_for_port`."""
    __tracebackhide__ = True
    end = time.monotonic() + timeout

    def attempt() -> bool:
        import paramiko  # noqa: PLC0415

        try:
            power.transport().open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=max(1.0, end - time.monotonic())
            ).close()
        except paramiko.SSHException:
            power.check_alive()
            return False
        return True

    if not _becomes_true(attempt, timeout):
        listening = run("ss -lnt 2>/dev/null || netstat -lnt", check=False)
        raise WaitTimeout(
            f"nothing listened on port {port} of guest {power.name} within {timeout:g} s\n{listening.report()}"
        )


def wait_for_unit(run: Run, name: str, timeout: float) -> None:
    """See `pytest_xhyve.Guest.wait_for_unit`."""
    __tracebackhide__ = True

    def status() -> str:
        return run(["systemctl", "status", "--no-pager", "--full", "--", name], check=False).report()

    def attempt() -> bool:
        state = run(["systemctl", "is-active", "--", name], check=False).stdout.strip()
        if state == "failed":
            raise XhyveError(f"unit {name} has failed\n{status()}")
        return state == "active"

    if not _becomes_true(attempt, timeout):
        raise WaitTimeout(f"unit {name} was not active within {timeout:g} s\n{status()}")


def _becomes_true(attempt: Callable[[], bool], timeout: float) -> bool:
    """Try until *attempt* gives True, for *timeout* seconds: often at first, then every half second."""
    waiting = Retrying(
        retry=retry_if_result(lambda done: not done),
        wait=wait_exponential(multiplier=0.02, max=0.5),
        stop=stop_after_delay(timeout),
    )
    try:
        waiting(attempt)
    except RetryError:
        return False
    return True
