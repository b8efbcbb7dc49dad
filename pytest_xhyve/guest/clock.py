"""Set the clock of a guest, which has to run on its own time otherwise."""

from __future__ import annotations

import math
import os
import time
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_xhyve.guest.kernel_calls import (
    MAX_DRIFT,
    RANDOM_DEVICE,
    close,
    open_for_writing,
    reseed,
    set_clock,
    set_drift,
)
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConfigurationError, XhyveError
from pytest_xhyve.model.values import short_repr

if TYPE_CHECKING:
    from pytest_xhyve.guest.agent import Agent, Call, RunAsRoot
    from pytest_xhyve.model.architecture import Architecture

# The descriptor of the first file that the agent holds open.
_RANDOM_FD = 3
# The guest sets its clock at some time within this one; a loaded host gets some tries.
_GOOD_SECONDS = 0.25
_TRIES = 4
_MAX_YEAR_SECONDS = 1 << 33


def parse_time(offset: float | None, at: datetime | float | None) -> float | None:
    """The seconds that the guest's clock shall be ahead of the host's; None if neither was given.

    Raises:
        ConfigurationError: both were given, or one is not a time.
    """
    if offset is not None and at is not None:
        raise ConfigurationError("set_clock() takes offset= or at=, not both")
    for name, value in (("offset", offset), ("at", at)):
        if isinstance(value, datetime) or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigurationError(f"{name}={short_repr(value)} is not a number of seconds")
    if offset is None and at is None:
        return None
    now = time.time()
    seconds = at.timestamp() if isinstance(at, datetime) else at
    ahead = offset if offset is not None else (seconds or 0.0) - now
    if not 0 <= now + ahead < _MAX_YEAR_SECONDS:
        raise ConfigurationError(f"a clock cannot be {ahead:+.0f} s from now: it counts from 1970")
    return float(ahead)


def parse_drift(drift: float) -> float:
    """*drift*, in seconds for each second.

    Raises:
        ConfigurationError: it is not a number between -0.1 and 0.1.
    """
    if isinstance(drift, bool) or not isinstance(drift, int | float) or not abs(drift) <= MAX_DRIFT:
        raise ConfigurationError(f"drift={short_repr(drift)} is not a number from -{MAX_DRIFT} to {MAX_DRIFT}")
    return float(drift)


def change_clock(
    run_as_root: RunAsRoot, architecture: Architecture, ahead: float | None, drift: float | None, *, seed: bool = False
) -> None:
    """Set the clock of a running guest.

    Args:
        run_as_root: runs a shell line in the guest.
        architecture: the guest's.
        ahead: the seconds that it shall be ahead of the host's; None leaves the time as it is.
        drift: the seconds that it gains in each second; None leaves that as it is.
        seed: whether the guest's kernel also gets new random numbers.

    Raises:
        XhyveError: the guest cannot do that.
    """
    from pytest_xhyve.guest.agent import AgentError, execute_over_ssh  # noqa: PLC0415

    for left in reversed(range(_TRIES)):
        begin = monotonic()
        steps: dict[str, tuple[Call, ...]] = {}
        if seed:
            steps["reseed its random numbers"] = reseed(_RANDOM_FD)
        if drift is not None:
            steps["change the speed of its clock"] = (set_drift(drift),)
        if ahead is not None:
            steps["set its clock"] = (set_clock(ahead),)
        calls = [each for step in steps.values() for each in step]
        try:
            results = iter(execute_over_ssh(run_as_root, architecture, calls, [RANDOM_DEVICE]))
        except AgentError as error:
            if left:
                # In a guest with much load, an answer was lost once. The calls can be repeated.
                continue
            raise XhyveError(f"cannot set the guest's clock: {error}") from error
        for step, made in steps.items():
            lowest = min(next(results) for _ in made)
            if lowest < 0:
                raise XhyveError(f"the guest cannot {step}: {os.strerror(-lowest)}")
        if ahead is None or monotonic() - begin < _GOOD_SECONDS or not left:
            return


def set_by_agent(agent: Agent) -> bool:
    """Set the clock to the host's, and reseed the random numbers, by the agent that waits at the second serial port.

    Args:
        agent: the agent.

    Returns:
        whether the agent has done both; it is not there any more if the guest was restarted since it was restored.
    """
    from pytest_xhyve.guest.agent import AgentError  # noqa: PLC0415

    try:
        (random,) = agent.execute(open_for_writing(RANDOM_DEVICE))
        return random >= 0 and min(agent.execute(*reseed(random), close(random), set_clock())) >= 0
    except AgentError:
        return False
