"""QEMU's seccomp filter: the kernel then refuses what QEMU does not need (qemu(1), -sandbox).

A guest that breaks out of its machine is in the QEMU process. With the filter, it cannot start a program there, change
its user or its priority, or make obsolete system calls.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_xhyve.host import proofs
from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.model.architecture import Architecture

OPTIONS = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
PROOF_SECONDS = 10.0


def prove(executable: str, version: str, cache: Path, architecture: Architecture) -> Proof:
    """Whether QEMU at *executable* starts a machine with the filter; a build or a kernel may be without seccomp.

    Args:
        executable: path of QEMU's program.
        version: its version; the cached result depends on it.
        architecture: the guests'.
        cache: the folder for the result, which is valid until the host boots again.
    """
    if sys.platform != "linux":
        return Proof(False, "only Linux has it")
    depends_on = (executable, version, *OPTIONS)
    return proofs.prove("sandbox", depends_on, cache, lambda: _check(executable, architecture), keeps_refusals=True)


def _check(executable: str, architecture: Architecture) -> Proof:
    # fmt: off
    argv = [
        executable,
        "-nodefaults", "-no-user-config", "-display", "none", "-S",
        "-machine", f"{architecture.machine},accel=tcg",
        "-m", "16",
        "-netdev", "user,id=net0",
        "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-monitor", "stdio",
        *OPTIONS,
    ]
    # fmt: on
    try:
        done = subprocess.run(
            with_parent_death_signal(argv), check=False, input=b"quit\n", capture_output=True, timeout=PROOF_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Proof(False, f"QEMU with -sandbox did not end within {PROOF_SECONDS:g} s")
    if done.returncode == 0:
        return Proof(True, "proved by a machine that started with it")
    output = done.stderr.decode(errors="replace").strip().splitlines()
    return Proof(False, output[-1] if output else f"QEMU with -sandbox ended with exit code {done.returncode}")
