"""A pytest plugin that gives a test a real, disposable Linux machine.

The names below are loaded when they are first used. pytest imports this package in every run of an environment in
which it is installed, also if no test asks for a guest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_xhyve.fleet.factory import GuestFactory
    from pytest_xhyve.fleet.images import ImageBuilder
    from pytest_xhyve.guest.chaos import Chaos
    from pytest_xhyve.guest.console import Console
    from pytest_xhyve.guest.disks import GuestDisk
    from pytest_xhyve.guest.guest import Guest
    from pytest_xhyve.guest.guests import Guests
    from pytest_xhyve.guest.snapshots import Snapshot
    from pytest_xhyve.hypervisors.base import HypervisorInfo
    from pytest_xhyve.model.completed import Completed
    from pytest_xhyve.model.crash_state import CrashState
    from pytest_xhyve.model.errors import (
        BootFailed,
        BootTimeout,
        CommandFailed,
        CommandTimeout,
        ConfigurationError,
        ConnectionFailed,
        HypervisorExited,
        HypervisorNotFound,
        ImageError,
        KernelPanic,
        LanFailed,
        LeaseNotFound,
        NoFreeSlot,
        NotSupported,
        TemplateError,
        WaitTimeout,
        XhyveError,
        XhyveWarning,
    )
    from pytest_xhyve.model.image import Image
    from pytest_xhyve.model.kept import Kept
    from pytest_xhyve.model.machine import Disk, Machine, Nic

__all__ = [
    "BootFailed",
    "BootTimeout",
    "Chaos",
    "CommandFailed",
    "CommandTimeout",
    "Completed",
    "ConfigurationError",
    "ConnectionFailed",
    "Console",
    "CrashState",
    "Disk",
    "Guest",
    "GuestDisk",
    "GuestFactory",
    "Guests",
    "HypervisorExited",
    "HypervisorInfo",
    "HypervisorNotFound",
    "Image",
    "ImageBuilder",
    "ImageError",
    "Kept",
    "KernelPanic",
    "LanFailed",
    "LeaseNotFound",
    "Machine",
    "Nic",
    "NoFreeSlot",
    "NotSupported",
    "Snapshot",
    "TemplateError",
    "WaitTimeout",
    "XhyveError",
    "XhyveWarning",
]

_DEFINED_IN = {
    "Chaos": "guest.chaos",
    "Completed": "model.completed",
    "Console": "guest.console",
    "CrashState": "model.crash_state",
    "Disk": "model.machine",
    "Guest": "guest.guest",
    "GuestDisk": "guest.disks",
    "GuestFactory": "fleet.factory",
    "Guests": "guest.guests",
    "HypervisorInfo": "hypervisors.base",
    "Image": "model.image",
    "ImageBuilder": "fleet.images",
    "Kept": "model.kept",
    "Machine": "model.machine",
    "Nic": "model.machine",
    "Snapshot": "guest.snapshots",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DEFINED_IN.get(name, 'model.errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
