"""Wait for a command that succeeds, a port or a unit in a guest, which may restart meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tenacity import RetryError, Retrying, retry_if_result, wait_exponential

from pytest_xhyve.guest.listeners import TABLE, find_addresses
from pytest_xhyve.guest.shell import Command, check_timeout
from pytest_xhyve.model.clock import monotonic, stop_at
from pytest_xhyve.model.completed import Completed
from pytest_xhyve.model.errors import BootTimeout, CommandTimeout, ConnectionFailed, WaitTimeout, XhyveError
from pytest_xhyve.model.text import printable

Try = Callable[[Command, float], Completed]
"""Runs a command for at most so many seconds, whatever its exit code."""

# Before systemd 240, is-system-running does not wait.
_WAIT_FOR_UNITS = """
[ -d /run/systemd/system ] || { echo running; exit; }
while :; do
    state=$(systemctl is-system-running --wait 2>/dev/null)
    case $state in initializing | starting) sleep 1 ;; *) break ;; esac
done
echo "$state"
[ "$state" = running ] || systemctl list-units --failed --plain --no-legend --no-pager
"""


class Run(Protocol):
    """`pytest_xhyve.Guest.run`."""

    def __call__(self, command: Command, *, check: bool = True, timeout: float | None = None) -> Completed: ...


@dataclass(frozen=True, slots=True)
class SystemState:
    """The state of a system after its boot; its text is for people.

    Attributes:
        name: as systemctl(1) names it, such as ``running``, ``degraded`` or ``starting``.
        failed: the units that failed, at most 20.
    """

    name: str
    failed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, output: str) -> SystemState:
        """The state from the *output* of the guest, which is not trusted."""
        name, *units = output.splitlines() or [""]
        failed = (line.split()[0] for line in units if line.strip())
        return cls(printable(name.strip())[:40] or "unknown", tuple(printable(unit)[:80] for unit in failed)[:20])

    def __str__(self) -> str:
        """The state, with the units that failed."""
        return f"{self.name} (failed: {', '.join(self.failed)})" if self.failed else self.name


def wait_for_units(run: Run, timeout: float) -> SystemState:
    """Wait until systemd, if the guest has it, has started all units; a failed unit is not an error here.

    Returns:
        the state of the system: ``starting`` if it was not ready within *timeout* seconds.
    """
    with contextlib.suppress(CommandTimeout):
        return SystemState.parse(run(_WAIT_FOR_UNITS, check=False, timeout=timeout).stdout)
    return SystemState("starting")


class _Tries:
    """Runs commands again and again until a limit; a restart of the guest does not end that."""

    def __init__(self, run: Try, timeout: float) -> None:
        check_timeout(timeout)
        self._run = run
        self._end = monotonic() + timeout
        self.last = ""

    def run(self, command: Command) -> Completed | None:
        """Run *command* once; return its result, or None if it did not end in time or the guest did not answer."""
        __tracebackhide__ = True
        try:
            completed = self._run(command, max(1.0, self._end - monotonic()))
        except CommandTimeout as error:
            self.last = error.completed.report()
            return None
        except (ConnectionFailed, BootTimeout) as error:
            if isinstance(error, ConnectionFailed) and not error.broke:
                raise
            self.last = f"  {error}"
            return None
        self.last = completed.report()
        return completed

    def until(self, attempt: Callable[[], bool]) -> bool:
        """Call *attempt* until it returns True, often at first, then every half second; return whether it did."""
        waiting = Retrying(
            retry=retry_if_result(lambda done: not done),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            stop=stop_at(self._end),
        )
        try:
            waiting(attempt)
        except RetryError:
            return False
        return True


def wait_for_success(run: Try, command: Command, timeout: float) -> Completed:
    """See `pytest_xhyve.Guest.wait_for`."""
    __tracebackhide__ = True
    tries = _Tries(run, timeout)
    found: list[Completed] = []

    def attempt() -> bool:
        completed = tries.run(command)
        if completed is None or completed.returncode != 0:
            return False
        found.append(completed)
        return True

    if not tries.until(attempt):
        raise WaitTimeout(f"did not succeed within {timeout:g} s; last:\n{tries.last}")
    return found[0]


def wait_for_port(run: Try, name: str, port: int, timeout: float) -> None:
    """See `pytest_xhyve.Guest.wait_for_port`."""
    __tracebackhide__ = True
    tries = _Tries(run, timeout)

    def attempt() -> bool:
        completed = tries.run(TABLE)
        return completed is not None and bool(find_addresses(completed.stdout, port))

    if not tries.until(attempt):
        tries.run("ss -lnt 2>/dev/null || netstat -lnt")
        raise WaitTimeout(f"nothing listened on port {port} of guest {name} within {timeout:g} s\n{tries.last}")


def wait_for_unit(run: Try, name: str, timeout: float) -> None:
    """See `pytest_xhyve.Guest.wait_for_unit`."""
    __tracebackhide__ = True
    tries = _Tries(run, timeout)

    def status() -> str:
        tries.run(["systemctl", "status", "--no-pager", "--full", "--", name])
        return tries.last

    def attempt() -> bool:
        completed = tries.run(["systemctl", "is-active", "--", name])
        state = "" if completed is None else completed.stdout.strip()
        if state == "failed":
            raise XhyveError(f"unit {name} has failed\n{status()}")
        return state == "active"

    if not tries.until(attempt):
        raise WaitTimeout(f"unit {name} was not active within {timeout:g} s\n{status()}")
