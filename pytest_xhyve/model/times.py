"""The durations of a guest's phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

COMMAND = "command"
TEARDOWN = "teardown"


@dataclass(frozen=True, slots=True)
class GuestTimes:
    """The durations of one guest's phases, from its start to its removal.

    Attributes:
        name: the guest's name.
        image: its image's name.
        requested_by: the test that requested the guest, or its class, module or session; empty if unknown.
        phases: seconds, by the names of `pytest_xhyve.Guest.phases`; also the first `COMMAND`, and `TEARDOWN`.
        began: when it was requested, in seconds since the epoch.
        waited: for how many seconds the request waited for a slot; no phase contains them.
        lived: seconds from the request to the removal, without those; 0 while the guest lives.
    """

    name: str
    image: str
    requested_by: str
    phases: Mapping[str, float]
    began: float = 0.0
    waited: float = 0.0
    lived: float = 0.0

    @property
    def start(self) -> str:
        """``warm`` if the guest was restored, ``cold`` if it booted."""
        return "warm" if "restore" in self.phases else "cold"

    @property
    def total(self) -> float:
        """The sum of all phases, in seconds."""
        return sum(self.phases.values())

    def to_message(self) -> dict[str, Any]:
        """This object as plain data, which an xdist worker can send to its controller."""
        return {**asdict(self), "phases": dict(self.phases)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> GuestTimes:
        """The object from which `to_message` made *message*."""
        return cls(**message)
