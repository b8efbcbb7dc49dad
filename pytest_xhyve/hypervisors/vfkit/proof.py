"""Prove that vfkit can run a guest on this host: start a machine with nothing but its firmware."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.vfkit.diagnosis import RUNNING, explain
from pytest_xhyve.model.clock import monotonic

# vfkit itself gives up after 5 s.
_PROOF_SECONDS = 15.0
_LOOK_SECONDS = 0.01


def prove_that_it_runs(program: str, version: str) -> Proof:
    """Whether *program*, a vfkit of *version*, starts a machine that has no disk, which then is killed.

    That needs macOS 13 or later, its entitlement, and a Mac that can run guests.
    """
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
        log = Path(folder) / "log"
        argv = [
            program,
            "--memory",
            "128",
            "--bootloader",
            "efi,variable-store=variables,create",
            "--log-level",
            "info",
        ]
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    with_parent_death_signal(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder,
                )
            except OSError as error:
                return Proof(works=False, reason=f"cannot start {program}: {error}")
        try:
            return _watch(process, log, version)
        finally:
            process.kill()
            process.wait(_PROOF_SECONDS)


def _watch(process: subprocess.Popen[bytes], log: Path, version: str) -> Proof:
    end = monotonic() + _PROOF_SECONDS
    while monotonic() < end:
        # In this order: what it wrote before it ended is in the log then.
        status = process.poll()
        text = log.read_bytes()
        if RUNNING in text:
            return Proof(works=True, reason="a machine without a disk ran")
        if status is not None:
            return Proof(works=False, reason=explain(version, status, text.decode(errors="replace"), _PROOF_SECONDS))
        time.sleep(_LOOK_SECONDS)
    return Proof(works=False, reason=explain(version, None, "", _PROOF_SECONDS))
