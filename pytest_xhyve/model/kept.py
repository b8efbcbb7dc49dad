"""A guest that stays after the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept guest.

    Attributes:
        name: the guest's name.
        image: its image's name.
        by: the test, class or module that the guest was kept for.
        ssh: the command line that logs in to the guest; empty if the guest has no address.
        console: the file with the output of the guest's serial port.
    """

    name: str
    image: str
    by: str
    ssh: tuple[str, ...]
    console: str

    @property
    def is_there(self) -> bool:
        """Whether the guest has not been removed since."""
        return Path(self.console).exists()

    @property
    def login(self) -> str:
        """The command line that logs in, or the console's path if the guest has no address."""
        return shlex.join(self.ssh) if self.ssh else f"(the guest has no address; its console: {self.console})"

    def to_message(self) -> dict[str, Any]:
        """This object as plain data, which an xdist worker can send to its controller."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Kept:
        """The object from which `to_message` made *message*."""
        return cls(**{**message, "ssh": tuple(message["ssh"])})
