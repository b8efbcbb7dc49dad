"""What reports show of a guest whose test has failed, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class FailedGuest:
    """A guest of a test that has failed.

    Attributes:
        name: its name.
        console: the end of what its console has shown since the test began, with its escape sequences.
        journal: the end of its journal, from the beginning of the test on.
        screen: its screen, as a PNG file in base64; empty if it has no graphics card.
    """

    name: str
    console: str
    journal: str
    screen: str

    def to_message(self) -> dict[str, Any]:
        """This object as plain data, which an xdist worker can send to its controller."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """The object from which `to_message` made *message*."""
        return cls(**message)
