"""A guest that stays after the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Kept:
    """A guest that was left running.

    Attributes:
        name: the guest's.
        image: its image's name.
        by: the test, class or module that it was kept for.
        ssh: the command line that logs in there; empty where the guest has no address.
        console: the file that holds what its serial port says.
    """

    name: str
    image: str
    by: str
    ssh: tuple[str, ...]
    console: str

    @property
    def is_there(self) -> bool:
        """Whether it was not taken away since."""
        return Path(self.console).exists()

    @property
    def login(self) -> str:
        """The line to paste, or where to look instead."""
        return shlex.join(self.ssh) if self.ssh else f"(it has no address; its console: {self.console})"

    def to_message(self) -> dict[str, Any]:
        """Itself, in what a worker can send to its controller."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Kept:
        """What `to_message` made a message of."""
        return cls(**{**message, "ssh": tuple(message["ssh"])})
