"""Guests that are left running when their run is over, for somebody to log in to."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_xhyve.errors import XhyveError
from pytest_xhyve.guardian import Ward
from pytest_xhyve.runs import GuestRecord

if TYPE_CHECKING:
    from pytest_xhyve.guest import Guest


@dataclass(frozen=True, slots=True)
class Kept:
    """A guest that was left running.

    Attributes:
        name: the guest's.
        image: its image's name.
        by: the test, class or module that it was kept for.
        ssh: the command line that logs in there; empty where the guest has no address.
        console: the file that holds what its serial port says.
        pid: the hypervisor's process.
    """

    name: str
    image: str
    by: str
    ssh: tuple[str, ...]
    console: str
    pid: int

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


def _this_run() -> str:
    """What all processes of one run of pytest have in common, and no other run."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())


def is_of_this_run(guest: GuestRecord) -> bool:
    """Whether *guest* was kept by this run of pytest."""
    return guest.kept is not None and guest.kept.get("run") == _this_run()


def keep(guest: Guest, ward: Ward, by: str) -> Kept:
    """Let *guest* outlive this process; what this process has of it can be given up then.

    Args:
        guest: whose hypervisor runs.
        ward: its place in the guardian's care.
        by: what it is kept for.

    Raises:
        XhyveError: the guardian is gone, and the guest with it.
    """
    try:
        ssh = guest.ssh_command()
    except (XhyveError, OSError):
        # It has no address yet, or the disk is full; its console still tells of it.
        ssh = ()
    ward.keep({"kept": {"by": by, "since": time.time(), "run": _this_run()}, "ssh": ssh})
    assert ward.pid is not None
    return Kept(guest.name, guest.image.name, by, ssh, str(guest.console.path), ward.pid)
