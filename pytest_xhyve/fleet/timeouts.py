"""The limits of the steps of this run's guests."""

from __future__ import annotations

from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.model.settings import EMULATION_FACTOR, Settings
from pytest_xhyve.model.timeouts import Timeouts

_SHUTDOWN_SECONDS = 60.0
_STEP_SECONDS = 30.0
_REFUSAL_SECONDS = 10.0
_RESTORE_SECONDS = 30.0
_SETTLE_SECONDS = 30.0


def timeout_factor(settings: Settings, info: HypervisorInfo) -> float:
    """What multiplies each limit of a guest: the user's factor, and that of an emulated CPU."""
    return settings.timeout_factor * (EMULATION_FACTOR if info.emulated else 1)


def timeouts_of(settings: Settings, info: HypervisorInfo) -> Timeouts:
    """The limits of a guest of the hypervisor that *info* describes."""
    factor = timeout_factor(settings, info)
    return Timeouts(
        boot=settings.boot_timeout * factor,
        restore=_RESTORE_SECONDS * factor,
        shutdown=_SHUTDOWN_SECONDS * factor,
        step=_STEP_SECONDS * factor,
        refusal=_REFUSAL_SECONDS * factor,
        settle=_SETTLE_SECONDS * factor,
        reason=f"emulated: {info.reason}" if info.emulated else "",
    )
