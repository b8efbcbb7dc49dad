"""Serve the host's folders that a guest has, too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pytest_xhyve.hypervisors.base import Hypervisor
from pytest_xhyve.model.errors import NotSupported
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.share import Share

if TYPE_CHECKING:
    from pytest_xhyve.guest.shares import GuestShares


def serve_shares(
    shares: Sequence[Share] | None, hypervisor: Hypervisor, machine: Machine, life: ExitStack
) -> GuestShares | None:
    """Serve *shares* until *life* ends; None if there are none.

    Args:
        shares: the folders.
        hypervisor: runs the guest.
        machine: the guest's machine.
        life: ends after the guest.

    Raises:
        ConfigurationError: a folder cannot be read.
        NotSupported: the guest may reach nothing.
    """
    if not shares:
        return None
    network = machine.nics[0].network
    if network == "none":
        raise NotSupported(
            'a guest with network="none" cannot mount folders of this host (shares=)\n'
            '  use network="isolated", or copy the folder with guest.sync()'
        )
    # Few guests have shares.
    from pytest_xhyve.guest.shares import serving_shares  # noqa: PLC0415

    return life.enter_context(serving_shares(shares, hypervisor.host_loopback if network == "nat" else None))
