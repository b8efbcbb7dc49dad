"""How long the steps of a guest may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The limits of one guest, in seconds; every factor is already in them.

    Attributes:
        boot: from the hypervisor's start to a login.
        restore: the same for a guest that is restored.
        shutdown: from the request to the hypervisor's end.
        step: one step of a protocol, such as the SSH handshake.
        refusal: how long a booting guest may refuse a login.
        settle: how long the plugin waits until a guest that it will save is idle.
        reason: what a message adds about the limits, as ``emulated``.
    """

    boot: float
    restore: float
    shutdown: float
    step: float
    refusal: float
    settle: float
    reason: str = ""
