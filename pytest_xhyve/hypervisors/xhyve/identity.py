"""The UUIDs that vmnet accepts, and the Ethernet address that belongs to each.

vmnet derives the address from the UUID, always the same one, and refuses some UUIDs for good. The plugin probes each
UUID once and caches the result, because a probe starts xhyve.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pytest_xhyve.host.privilege import ProcessResult
from pytest_xhyve.hypervisors.xhyve import vmnet
from pytest_xhyve.hypervisors.xhyve.build import Build

# xhyve prints this if it cannot read the kernel, which is after it created the network card (kexec.c).
_NO_KERNEL = "kexec: failed to load kernel"


@dataclass(frozen=True, slots=True)
class UuidRecord:
    """The facts about a UUID: whether vmnet refused it, and its Ethernet address, or None if not known yet."""

    refused: bool = False
    mac: str | None = None


class UuidCache:
    """The records of UUIDs, as files in *folder*; they are valid until macOS is updated.

    Each UUID belongs to one slot, so two processes never write its record at the same time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = f"{platform.system()} {platform.release()}"

    def find(self, uuid: UUID) -> UuidRecord | None:
        """The record of *uuid*, or None if there is none."""
        try:
            content = json.loads(self._path(uuid).read_text())
            return UuidRecord(content["refused"], content["mac"]) if content["host"] == self._host else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, uuid: UUID, record: UuidRecord) -> None:
        """Save the record of *uuid*."""
        path = self._path(uuid)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"refused": record.refused, "mac": record.mac, "host": self._host}))
        fresh.replace(path)

    def forget(self, uuid: UUID) -> None:
        """Remove the record of *uuid*, so that it is probed again."""
        self._path(uuid).unlink(missing_ok=True)

    def macs(self) -> set[str]:
        """The Ethernet addresses of all records."""
        records = (self.find(UUID(path.stem)) for path in self._folder.glob("*-*-*-*-*.json"))
        return {record.mac for record in records if record is not None and record.mac is not None}

    def _path(self, uuid: UUID) -> Path:
        return self._folder / f"{uuid}.json"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe.

    Attributes:
        record: the facts about the UUID; None if the probe failed.
        reason: how this is known, or why the probe failed.
    """

    record: UuidRecord | None
    reason: str


def read_probe(done: ProcessResult, build: Build, reason: str) -> ProbeResult:
    """Read the output of a program that ran with `pytest_xhyve.hypervisors.xhyve.argv.probe_argv`.

    Args:
        done: the program's exit code and output.
        build: the program's build.
        reason: the reason to report if the probe failed.
    """
    mac = re.search(r"^MAC: ([0-9a-f:]{17})$", done.output, re.MULTILINE)
    if mac is not None:
        return ProbeResult(UuidRecord(mac=mac[1]), "proved by creating a network card")
    if not build.reports_mac and _NO_KERNEL in done.output:
        return ProbeResult(UuidRecord(), "proved by creating a network card")
    return ProbeResult(UuidRecord(refused=True) if vmnet.REFUSAL in done.output else None, reason)
