"""Find vfkit, and read its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence

from pytest_xhyve.host.processes import run_program
from pytest_xhyve.hypervisors.base import OtherProgram
from pytest_xhyve.model.errors import HypervisorNotFound

OLDEST = (0, 6, 2)
"""The first release with ``--pidfile``, by which other processes find a guest (vfkit's commit 5a4478d)."""

_ANSWER_SECONDS = 30.0
_VERSION = re.compile(r"vfkit version: (\S*)")
_NUMBERS = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_KILLED = -9
_INSTALL = "install the current one (`brew install vfkit`), or use --xhyve-hypervisor=qemu"

Ask = Callable[[Sequence[str]], tuple[int | None, str]]
"""Runs a command line; returns its exit code as in `subprocess` (None: it could not run), and its output."""


def find_program(wanted: str) -> str:
    """The path of the program *wanted*, which is a name or a path.

    Raises:
        HypervisorNotFound: the program is not found.
    """
    found = shutil.which(wanted)
    if found is None:
        where = "" if "/" in wanted else " in PATH"
        raise HypervisorNotFound(f"vfkit not found: looked for {wanted}{where}\n  it runs only on Macs; {_INSTALL}")
    # The path must be absolute, because the program runs in the guest's folder.
    return os.path.abspath(found)  # noqa: PTH100


def ask_version(program: str, ask: Ask | None = None) -> str:
    """The version that *program* prints, such as ``v0.6.4``.

    Args:
        program: its path.
        ask: runs it; None runs it as a child process.

    Raises:
        OtherProgram: the program cannot run, or is not vfkit.
        HypervisorNotFound: macOS does not let it run, or it is older than `OLDEST`.
    """
    code, output = (ask or _run)([program, "--version"])
    match = _VERSION.match(output)
    if code == _KILLED:
        raise HypervisorNotFound(
            f"macOS killed {program} at once: its signature is damaged, or claims more than Apple grants\n  {_INSTALL}"
        )
    if code != 0 or match is None:
        lines = output.strip().splitlines()
        raise OtherProgram(
            f"{program} is not vfkit: asked for its version, it ended with exit code {code}"
            + (f" and printed {lines[-1]!r}" if lines else "")
        )
    numbers = _NUMBERS.match(match[1])
    # A build from sources without tags has no numbers; it is taken for a current one.
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise HypervisorNotFound(
            f"{program} is vfkit {match[1]}, which is too old: the plugin needs {oldest} or later (--pidfile)\n"
            f"  {_INSTALL}"
        )
    return match[1] or "unknown"


def _run(argv: Sequence[str]) -> tuple[int | None, str]:
    try:
        done = run_program(argv, timeout=_ANSWER_SECONDS, merges_streams=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return done.returncode, done.stdout
