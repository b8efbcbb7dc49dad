"""A bundle that a run has saved, for its summary."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class SavedFailure:
    """A bundle with the guests of a failed test.

    Attributes:
        test: the test's node id.
        path: the bundle.
        size: its size in bytes.
        guests: the names of the guests.
        seconds: how long it took to save.
    """

    test: str
    path: str
    size: int
    guests: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        """The command line that lets the guests go on."""
        return f"pytest-xhyve resume {shlex.quote(self.path)}"

    def to_message(self) -> dict[str, Any]:
        """This object as plain data, which an xdist worker can send to its controller."""
        return {**asdict(self), "guests": list(self.guests)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """The object from which `to_message` made *message*."""
        return cls(**{**message, "guests": tuple(message["guests"])})
