"""Which acceleration works on this host; QEMU runs a test program to find out.

That ``/dev/kvm`` opens proves nothing. On some hosts KVM creates machines, but no guest ever prints a line. On others
the firmware runs but a kernel does not, because the host decodes each of its instructions one by one. So QEMU runs a
program that does what a kernel does first. The program then counts far enough to distinguish a CPU from a decoder. At
last it ends QEMU in a way that has no other cause. The result is valid until the host boots again or QEMU
changes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from pytest_xhyve.host import proofs
from pytest_xhyve.host.processes import cpu_seconds, with_parent_death_signal
from pytest_xhyve.host.proofs import Proof
from pytest_xhyve.hypervisors.qemu.proof_programs import ProofProgram, program_for
from pytest_xhyve.model.architecture import X86_64, Architecture
from pytest_xhyve.model.clock import monotonic

PROOF_SECONDS = 2.0
"""After so much CPU time, a test program that still runs counts as hung; on a busy host, QEMU waits for a CPU."""
IDLE_SECONDS = 10.0
"""The limit by the clock, for a program that uses no CPU."""
_LOOK_SECONDS = 0.05


def candidates() -> tuple[str, ...]:
    """The accelerations that this platform may have, best first; ``tcg`` works everywhere."""
    return {"linux": ("kvm", "tcg"), "darwin": ("hvf", "tcg")}.get(sys.platform, ("tcg",))


def prove(executable: str, version: str, acceleration: str, cache: Path, architecture: Architecture = X86_64) -> Proof:
    """Whether QEMU at *executable* can run a guest with *acceleration*.

    Args:
        executable: path of QEMU's program.
        version: its version; the cached result depends on it.
        acceleration: ``kvm`` or ``hvf``.
        cache: the folder for the result, which is valid until the host boots again.
        architecture: the guests'.
    """
    program = program_for(architecture)
    # The result of an earlier test program does not count.
    depends_on = (executable, version, hashlib.sha256(program.code).hexdigest())

    def check() -> Proof:
        if not architecture.is_native() and acceleration != "tcg":
            machine = platform.machine()
            return Proof(False, f"the processor of this host is {machine}, and guests are {architecture.name}")
        return _check(executable, acceleration, program)

    return proofs.prove(acceleration, depends_on, cache, check, keeps_refusals=True)


def _check(executable: str, acceleration: str, program: ProofProgram) -> Proof:
    if acceleration == "kvm":
        device = Path("/dev/kvm")
        if not device.exists():
            return Proof(False, "/dev/kvm does not exist")
        if not os.access(device, os.R_OK | os.W_OK):
            return Proof(False, "this user may not open /dev/kvm; add the user to the group kvm")
    with tempfile.TemporaryDirectory(prefix="pytest-xhyve-") as folder:
        path = Path(folder) / "program"
        path.write_bytes(program.file)
        argv = [executable, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += program.options(path, acceleration)
        try:
            status, output, messages = _run(argv)
        except subprocess.TimeoutExpired as error:
            return Proof(False, f"the host advertises {acceleration}, but a test program hung for {error.timeout:g} s")
    if program.has_run(status, output):
        return Proof(True, "proved by a test program")
    lines = messages.decode(errors="replace").strip().splitlines()
    return Proof(False, lines[-1] if lines else f"a test program ended QEMU with exit code {status}")


def _run(argv: list[str]) -> tuple[int, bytes, bytes]:
    """The exit code, the standard output and the messages of a program.

    Raises:
        subprocess.TimeoutExpired: it hung, and was killed.
    """
    end = monotonic() + IDLE_SECONDS
    with subprocess.Popen(
        with_parent_death_signal(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output, messages = process.communicate(timeout=_LOOK_SECONDS)
                    return process.returncode, output, messages
                if cpu_seconds(process.pid) >= PROOF_SECONDS:
                    raise subprocess.TimeoutExpired(argv, PROOF_SECONDS)
                if monotonic() >= end:
                    raise subprocess.TimeoutExpired(argv, IDLE_SECONDS)
        finally:
            process.kill()
