"""Booting a guest that may not come up."""

from __future__ import annotations

from collections.abc import Callable

from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.guardian import Ward
from pytest_xhyve.model.errors import XhyveError

Failed = Callable[[Guest, Ward, XhyveError], None]
"""Sees a guest that did not come up, and why, before it is taken away; the ward is its place in the guardian's care."""


def start(guest: Guest, ward: Ward, failed: Failed) -> None:
    """Boot *guest*; one that does not come up is switched off once *failed* has seen it.

    Raises:
        XhyveError: in one of its kinds.
    """
    try:
        guest.start()
    except XhyveError as error:
        failed(guest, ward, error)
        guest.kill()
        raise
    except BaseException:
        guest.kill()
        raise
