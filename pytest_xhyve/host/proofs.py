"""Facts about this host that were found by running a program; they are cached until the host boots again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_xhyve.host.locks import locked
from pytest_xhyve.host.processes import run_program

# A program that hangs is waited for by one process, and that process by others.
_PROOF_SECONDS = 120.0
_SYSCTL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether something works on this host, and the reason, for messages."""

    works: bool
    reason: str


def prove(
    name: str, depends_on: Sequence[str], cache: Path, check: Callable[[], Proof], *, keeps_refusals: bool
) -> Proof:
    """The result of *check*, or its cached result since the host booted; one process checks while others wait.

    Args:
        name: the name of the fact; it is used in file names.
        depends_on: other values that the result depends on, such as a program and its version.
        cache: the folder for the result.
        check: finds the result.
        keeps_refusals: whether a negative result is cached, too.
    """
    boot = host_boot_id()
    key = hashlib.sha256("\0".join((boot, name, *depends_on)).encode()).hexdigest()[:16]
    cached = cache / f"{name}-{key}.json"
    with locked(cache / f"{name}.lock", f"tests whether {name} works here", _PROOF_SECONDS):
        if boot:
            try:
                return Proof(**json.loads(cached.read_text()))
            except (OSError, ValueError, TypeError):
                pass
        proof = check()
        # A refusal of xhyve is quick to find again, and its fix must have an effect at once.
        if boot and (proof.works or keeps_refusals):
            fresh = cached.with_suffix(".new")
            fresh.write_text(json.dumps(asdict(proof)))
            fresh.replace(cached)
        return proof


def host_boot_id() -> str:
    """An identifier that changes when the host boots; empty if this platform has none."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        # sysctl(8)
        try:
            done = run_program(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], timeout=_SYSCTL_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()
    return ""
