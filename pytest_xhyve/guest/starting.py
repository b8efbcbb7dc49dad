"""Booting a guest that may not come up."""

from __future__ import annotations

from collections.abc import Callable

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.model.errors import XhyveError

Failed = Callable[[Guest, GuardedProcess, XhyveError], None]
"""Sees a guest that did not come up, its hypervisor's process, and why, before it is taken away."""


def start(guest: Guest, process: GuardedProcess, failed: Failed) -> None:
    """Boot *guest*; one that does not come up is switched off once *failed* has seen it.

    Raises:
        XhyveError: in one of its kinds.
    """
    try:
        guest.start()
    except XhyveError as error:
        failed(guest, process, error)
        guest.kill()
        raise
    except BaseException:
        guest.kill()
        raise
