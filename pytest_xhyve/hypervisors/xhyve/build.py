"""Which of the programs that are called xhyve one is: they differ in options and exit codes.

There are three: xhyve's release 0.2.0 of 2015, which Homebrew had; xhyve as its repository has it since; and hyperkit,
which grew out of it. One question tells them apart: options are acted on from left to right (src/xhyve.c), so ``-M -v``
is an error where there is no ``-M``, and shows the version, with the project's home, where there is.
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

from pytest_xhyve.host.processes import with_parent_death_signal
from pytest_xhyve.hypervisors.base import ExitReason
from pytest_xhyve.model.errors import HypervisorNotFound

_ANSWER_SECONDS = 30.0
_KILLED = -9

_XHYVE_ENDINGS = MappingProxyType(
    {0: ExitReason.RESTARTED, 1: ExitReason.POWERED_OFF, 2: ExitReason.HALTED, 3: ExitReason.TRIPLE_FAULT},
)
# Of 0 the guest's halt is one meaning (hyperkit(1), EXIT STATUS).
_HYPERKIT_ENDINGS = MappingProxyType({0: ExitReason.POWERED_OFF, 2: ExitReason.RESTARTED, 3: ExitReason.TRIPLE_FAULT})


@dataclass(frozen=True, slots=True)
class Build:
    """One of the three.

    Attributes:
        name: ``xhyve`` or ``hyperkit``.
        version: as the program says.
        tells_mac: whether ``-M`` prints the Ethernet address of its network card.
        writes_pidfile: whether ``-F`` writes a file with its process id.
        pauses: whether SIGUSR1 stops the guest's CPUs, and SIGUSR2 lets them run.
        endings: what its exit codes mean once the guest has started.
    """

    name: str
    version: str
    tells_mac: bool
    writes_pidfile: bool
    pauses: bool
    endings: Mapping[int, ExitReason]

    def exit_reason(self, status: int) -> ExitReason:
        """What the exit status *status*, as `subprocess` has it, means."""
        if status < 0:
            return ExitReason.KILLED
        return self.endings.get(status, ExitReason.FAILED)


def find_program(wanted: str) -> str:
    """The path of the program *wanted*, a name or a path.

    Raises:
        HypervisorNotFound: there is no such program.
    """
    found = shutil.which(wanted)
    if found is None:
        raise HypervisorNotFound(
            f"{Path(wanted).name} was not found: looked for {wanted}{'' if '/' in wanted else ' in PATH'}\n"
            "  it runs on Intel Macs only, and has to be built there; elsewhere use --xhyve-hypervisor=qemu"
        )
    # Its guests are started in folders of their own. Links stay: sudo knows the program by the name it is given.
    return os.path.abspath(found)  # noqa: PTH100


class KilledAtOnce(HypervisorNotFound):
    """macOS kills the program before it says a word."""


Ask = Callable[[Sequence[str]], tuple[int | None, str]]
"""Runs a command line, and tells its exit code as `subprocess` has it (None: it could not be run) and its words."""


def ask_build(program: str, ask: Ask | None = None) -> Build:
    """Which build *program* is.

    Args:
        program: its path.
        ask: runs it.

    Raises:
        KilledAtOnce: macOS does not let it run.
        HypervisorNotFound: it cannot be run, or is none of them.
    """
    ask = ask or _run
    code, said = ask([program, "-M", "-v"])
    is_old = "illegal option -- M" in said
    if is_old:
        code, said = ask([program, "-v"])
    if code == _KILLED:
        raise KilledAtOnce(
            f"macOS killed {program} at once: its signature asks for what only Apple may grant, or was broken\n"
            f"  sign it anew, with com.apple.security.hypervisor alone: "
            f"`codesign --force --sign - --entitlements FILE {program}`"
        )
    version = re.match(r"[^:\n]+: (\S+)\n", said)
    # The first line has the name that the file was given, which tells nothing.
    origin = said.partition("\n")[2].lower()
    if code != 0 or version is None or not ("hyperkit" in origin or "xhyve" in origin):
        words = said.strip().splitlines()
        raise HypervisorNotFound(
            f"{program} is neither xhyve nor hyperkit: asked for its version, it ended with code {code}"
            + (f" and said {words[-1]!r}" if words else "")
        )
    is_hyperkit = "hyperkit" in origin
    return Build(
        name="hyperkit" if is_hyperkit else "xhyve",
        version=version[1],
        tells_mac=not is_old,
        writes_pidfile=not is_old,
        pauses=is_hyperkit,
        endings=_HYPERKIT_ENDINGS if is_hyperkit else _XHYVE_ENDINGS,
    )


def _run(argv: Sequence[str]) -> tuple[int | None, str]:
    try:
        done = subprocess.run(
            with_parent_death_signal(argv),
            check=False,
            stdin=subprocess.DEVNULL,
            # Most say it on the one, some of hyperkit on the other.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return done.returncode, done.stdout
