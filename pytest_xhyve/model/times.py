"""How long each step in the life of a guest took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COMMAND = "command"
TEARDOWN = "teardown"


@dataclass(frozen=True, slots=True)
class GuestTimes:
    """How long each step in the life of a guest took.

    Attributes:
        name: the guest's.
        image: the name of its image.
        asked_by: the test, or the class, module or session whose fixture it was; empty when nobody knows.
        phases: seconds, as `pytest_xhyve.Guest.phases` names them, with `COMMAND`, its first, and `TEARDOWN`.
    """

    name: str
    image: str
    asked_by: str
    phases: Mapping[str, float]

    @property
    def start(self) -> str:
        """``warm`` when it was restored, ``cold`` when it booted."""
        return "warm" if "restore" in self.phases else "cold"

    @property
    def total(self) -> float:
        """All phases together."""
        return sum(self.phases.values())

    def to_message(self) -> dict[str, Any]:
        """Itself, in what a worker can send to its controller."""
        return {"name": self.name, "image": self.image, "asked_by": self.asked_by, "phases": dict(self.phases)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> GuestTimes:
        """What `to_message` made a message of."""
        return cls(**message)
