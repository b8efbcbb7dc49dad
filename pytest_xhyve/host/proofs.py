"""What was found out about this host by running something, remembered until the host boots again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether something works here, and for a person how that is known."""

    works: bool
    reason: str


def prove(
    what: str, with_what: Sequence[str], cache: Path, look: Callable[[], Proof], *, keeps_refusals: bool
) -> Proof:
    """The answer that *look* gives, or has given since the host booted; one process looks while others wait.

    Args:
        what: a word that may be part of a file's name.
        with_what: what else the answer depends on, as a program and its version.
        cache: the folder in which it is kept.
        look: finds it out.
        keeps_refusals: whether it is remembered as well that something does not work.
    """
    boot = host_boot_id()
    key = hashlib.sha256("\0".join((boot, what, *with_what)).encode()).hexdigest()[:16]
    remembered = cache / f"{what}-{key}.json"
    with FileLock(cache / f"{what}.lock"):
        if boot:
            try:
                return Proof(**json.loads(remembered.read_text()))
            except (OSError, ValueError, TypeError):
                pass
        proof = look()
        # xhyve's "no" costs little, and its cure shall work at once.
        if boot and (proof.works or keeps_refusals):
            fresh = remembered.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(proof)))
            fresh.replace(remembered)
        return proof


def host_boot_id() -> str:
    """What changes when the host boots; empty where it cannot be told."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        # sysctl(8)
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], check=False, capture_output=True, text=True
        )
        return done.stdout.strip()
    return ""
