"""UUIDs under which vmnet gives addresses: which it takes, and the Ethernet address that goes with each.

vmnet chooses the address by the UUID, the same one each time, and refuses some UUIDs for good. Both are asked once and
then remembered, as the question costs a start of xhyve.
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

# After the kernel's files are found not to be there, which is after the network card was made (kexec.c).
_NO_KERNEL = "kexec: failed to load kernel"


@dataclass(frozen=True, slots=True)
class UuidRecord:
    """What is known of a UUID: whether vmnet refused it, and the address, or None while that is not known."""

    refused: bool = False
    mac: str | None = None


class UuidCache:
    """What is known of UUIDs, in *folder*; each is one slot's, so nobody else writes about it at the same time.

    It holds until macOS is another one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = f"{platform.system()} {platform.release()}"

    def find(self, uuid: UUID) -> UuidRecord | None:
        """What is known of *uuid*, if anything is."""
        try:
            content = json.loads(self._path(uuid).read_text())
            return UuidRecord(content["refused"], content["mac"]) if content["host"] == self._host else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, uuid: UUID, known: UuidRecord) -> None:
        """Remember it."""
        path = self._path(uuid)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"refused": known.refused, "mac": known.mac, "host": self._host}))
        fresh.replace(path)

    def forget(self, uuid: UUID) -> None:
        """Ask again the next time."""
        self._path(uuid).unlink(missing_ok=True)

    def macs(self) -> set[str]:
        """All addresses that are known."""
        known = (self.find(UUID(path.stem)) for path in self._folder.glob("*-*-*-*-*.json"))
        return {entry.mac for entry in known if entry is not None and entry.mac is not None}

    def _path(self, uuid: UUID) -> Path:
        return self._folder / f"{uuid}.json"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What xhyve said when it was asked about a UUID: what is known now, or None, and then why not."""

    known: UuidRecord | None
    why: str


def read_probe(done: ProcessResult, build: Build, why: str) -> ProbeResult:
    """What the program that was started by `pytest_xhyve.hypervisors.xhyve.argv.probe_argv` has told.

    Args:
        done: how it ended.
        build: which one it is.
        why: what shall be said when it told nothing.
    """
    told = re.search(r"^MAC: ([0-9a-f:]{17})$", done.output, re.MULTILINE)
    if told is not None:
        return ProbeResult(UuidRecord(mac=told[1]), "proved by making a network card")
    if not build.tells_mac and _NO_KERNEL in done.output:
        return ProbeResult(UuidRecord(), "proved by making a network card")
    return ProbeResult(UuidRecord(refused=True) if vmnet.REFUSAL in done.output else None, why)
