"""Explain the error messages of vfkit and of the Virtualization framework, and state the fix."""

from __future__ import annotations

import signal
from typing import NamedTuple

RUNNING = b"virtual machine is running"
"""What vfkit logs when the guest's CPUs run (cmd/vfkit/main.go)."""


class _KnownError(NamedTuple):
    """A part of vfkit's output, and the fix."""

    text: str
    fix: str


# The texts are vfkit's own (cmd/vfkit, pkg/config, pkg/rest, pkg/vf), and those of VZError (crc-org/vfkit#91, #373).
_KNOWN_ERRORS = (
    _KnownError(
        "com.apple.security.virtualization",
        "the program lacks the entitlement com.apple.security.virtualization: `brew reinstall vfkit`, or sign it",
    ),
    _KnownError(
        "Virtualization is not available on this hardware",
        "this Mac cannot run guests: in a virtual machine, enable nested virtualization on its host",
    ),
    _KnownError("The storage device attachment is invalid", "the framework cannot open a disk; start the test again"),
    _KnownError(
        "Invalid virtual machine configuration",
        "the guest has more CPUs or memory than this Mac gives to guests: --xhyve-cpus, --xhyve-memory",
    ),
    _KnownError("kernel must be uncompressed", "use the distribution's uncompressed kernel, or QEMU"),
    _KnownError("socket path length exceeds macOS limits", "set PYTEST_XHYVE_HOME to a folder with a shorter path"),
    _KnownError("address already in use", "another vfkit has this guest's socket: `pytest-xhyve reap` ends it"),
    _KnownError("unknown flag", "this vfkit is too old or too new for the plugin: `brew upgrade vfkit`"),
    _KnownError("timeout waiting for VM state", "the guest did not start within 5 s; quit other virtual machines"),
)

_KILLED = "another process killed it, or macOS did because memory was low, or its guardian was killed"
_CRASHED = "macOS's report of the crash is in ~/Library/Logs/DiagnosticReports; update vfkit: `brew upgrade vfkit`"


def explain(version: str, status: int | None, output: str, waited: float) -> str:
    """Why vfkit ended before its guest started, and the fix.

    Args:
        version: as the program prints it.
        status: its exit code as in `subprocess`; None if it hung and was killed.
        output: its output.
        waited: seconds that the plugin waited, if it hung.
    """
    name = f"vfkit {version}"
    if status is None:
        return (
            f"{name} did not report within {waited:g} s that its guest runs\n"
            "  quit other virtual machines, or restart macOS"
        )
    lines = output.strip().splitlines()
    # The last line is the error; the lines before are the usage.
    last = lines[-1] if lines else "it printed nothing"
    fix = next((f"\n  {known.fix}" for known in _KNOWN_ERRORS if known.text in output), "")
    if status < 0:
        event = f"was killed by signal {-status}"
        fix = fix or f"\n  {_KILLED if status == -signal.SIGKILL else _CRASHED}"
    else:
        event = f"ended with exit code {status}"
    return f"{name} {event}: {last}{fix}"
