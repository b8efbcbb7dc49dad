"""Identify the build of a program that is named xhyve: builds differ in options and exit codes.

There are three builds: xhyve's release 0.2.0 of 2015, which Homebrew had; the later state of xhyve's repository; and
hyperkit, which was derived from xhyve. One call distinguishes them. The programs handle options from left to right
(src/xhyve.c), so ``-M -v`` is an error if the program has no ``-M``. Otherwise it prints the version and the project's
home page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pytest_xhyve.host.processes import run_program
from pytest_xhyve.hypervisors.base import ExitReason, OtherProgram
from pytest_xhyve.model.errors import HypervisorNotFound

_ANSWER_SECONDS = 30.0
_KILLED = -9

_XHYVE_REASONS = MappingProxyType(
    {0: ExitReason.RESTARTED, 1: ExitReason.POWERED_OFF, 2: ExitReason.HALTED, 3: ExitReason.TRIPLE_FAULT},
)
# Exit code 0 also means that the guest halted (hyperkit(1), EXIT STATUS).
_HYPERKIT_REASONS = MappingProxyType({0: ExitReason.POWERED_OFF, 2: ExitReason.RESTARTED, 3: ExitReason.TRIPLE_FAULT})


@dataclass(frozen=True, slots=True)
class Build:
    """One of the three builds.

    Attributes:
        name: ``xhyve`` or ``hyperkit``.
        version: as the program prints it.
        reports_mac: whether ``-M`` prints the Ethernet address of its network card.
        writes_pidfile: whether ``-F`` writes a file with its process id.
        pauses: whether SIGUSR1 pauses the guest's CPUs, and SIGUSR2 resumes them.
        exit_reasons: the meaning of its exit codes after the guest has started.
    """

    name: str
    version: str
    reports_mac: bool
    writes_pidfile: bool
    pauses: bool
    exit_reasons: Mapping[int, ExitReason]

    def exit_reason(self, status: int) -> ExitReason:
        """The meaning of the exit code *status*, given as in `subprocess`."""
        if status < 0:
            return ExitReason.KILLED
        return self.exit_reasons.get(status, ExitReason.FAILED)


def find_program(wanted: str) -> str:
    """The path of the program *wanted*, which is a name or a path.

    Raises:
        HypervisorNotFound: the program is not found.
    """
    found = shutil.which(wanted)
    if found is None:
        raise HypervisorNotFound(
            f"{Path(wanted).name} not found: looked for {wanted}{'' if '/' in wanted else ' in PATH'}\n"
            "  it runs only on Intel Macs; build it there, or use --xhyve-hypervisor=qemu"
        )
    # The path must be absolute, because the program runs in the guest's folder. Symbolic links are not resolved,
    # because sudo's rules contain the path that the user gives.
    return os.path.abspath(found)  # noqa: PTH100


class KilledAtOnce(HypervisorNotFound):
    """macOS kills the program before it prints anything."""


Ask = Callable[[Sequence[str]], tuple[int | None, str]]
"""Runs a command line; returns its exit code as in `subprocess` (None: it could not run), and its output."""


def ask_build(program: str, ask: Ask | None = None) -> Build:
    """The build of *program*.

    Args:
        program: its path.
        ask: runs it; None runs it as a child process.

    Raises:
        KilledAtOnce: macOS does not let the program run.
        OtherProgram: the program cannot run, or is not one of the three builds.
    """
    ask = ask or _run
    code, output = ask([program, "-M", "-v"])
    is_old = "illegal option -- M" in output
    if is_old:
        code, output = ask([program, "-v"])
    if code == _KILLED:
        raise KilledAtOnce(
            f"macOS killed {program} at once: its signature requests an entitlement that only Apple grants, or is "
            "broken\n"
            f"  sign it again, with com.apple.security.hypervisor as the only entitlement: "
            f"`codesign --force --sign - --entitlements FILE {program}`"
        )
    version = re.match(r"[^:\n]+: (\S+)\n", output)
    # The first line contains the file's name, which does not identify the build.
    origin = output.partition("\n")[2].lower()
    if code != 0 or version is None or not ("hyperkit" in origin or "xhyve" in origin):
        lines = output.strip().splitlines()
        raise OtherProgram(
            f"{program} is not xhyve or hyperkit: asked for its version, it ended with exit code {code}"
            + (f" and printed {lines[-1]!r}" if lines else "")
        )
    is_hyperkit = "hyperkit" in origin
    return Build(
        name="hyperkit" if is_hyperkit else "xhyve",
        version=version[1],
        reports_mac=not is_old,
        writes_pidfile=not is_old,
        pauses=is_hyperkit,
        exit_reasons=_HYPERKIT_REASONS if is_hyperkit else _XHYVE_REASONS,
    )


def _run(argv: Sequence[str]) -> tuple[int | None, str]:
    try:
        # Most builds print the version to standard output, some of hyperkit to standard error.
        done = run_program(argv, timeout=_ANSWER_SECONDS, merges_streams=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return done.returncode, done.stdout
