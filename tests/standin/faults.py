"""What goes wrong on a Mac, as told by a test: read by each stand-in when it starts, and by the lease file's writer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

# How what bootpd writes is different, or how DHCP is:
#   nameless   no record has a name
#   never      addresses are given, and nothing is recorded
#   silent     nobody gets an address, as behind a firewall
#   duplicate  a guest's MAC has three records: an expired one, its own, and one of an earlier network
#   duid       guests name themselves by a DUID, so their MAC is nowhere in the file
#   duid-ll    the same, by a DUID that ends in their MAC
LeaseStyle = Literal["normal", "nameless", "never", "silent", "duplicate", "duid", "duid-ll"]


@dataclass(frozen=True, slots=True)
class Faults:
    """See `standin.mac.Mac.behave`."""

    refused_uuids: frozenset[str] = field(default=frozenset())
    vmnet_seconds: float = 0.2
    vmnet_hangs: bool = False
    interfaces: int = 32
    hv_missing: bool = False
    lease_delay: float = 0.3
    lease_style: LeaseStyle = "normal"

    @classmethod
    def load(cls, folder: Path) -> Faults:
        """What the file in *folder* says; nothing goes wrong where there is none, or none that we may read."""
        try:
            told = json.loads(_file(folder).read_text())
        except (FileNotFoundError, PermissionError):
            return cls()
        return cls(**told | {"refused_uuids": frozenset(told["refused_uuids"])})

    def save(self, folder: Path) -> None:
        """Write the file, so that a reader sees this or what was before."""
        told = asdict(self) | {"refused_uuids": sorted(uuid.lower() for uuid in self.refused_uuids)}
        new = folder / "faults.new"
        new.write_text(json.dumps(told))
        new.replace(_file(folder))


def _file(folder: Path) -> Path:
    return folder / "faults.json"
