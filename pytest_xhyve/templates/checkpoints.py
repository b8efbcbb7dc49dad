"""The saved states of shared guests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.model.machine import Machine
from pytest_xhyve.templates.identity import AgentState


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved state of one shared guest.

    Attributes:
        folder: contains the guest's memory and the state of its devices.
        machine: the guest's machine, without the disks that were unplugged; no guest writes to its disks any more.
        agent: what the agent in the guest holds open.
        exposed: the port of the host for each port in the guest that the test has exposed.
    """

    folder: Path
    machine: Machine
    agent: AgentState
    exposed: Mapping[int, int]
