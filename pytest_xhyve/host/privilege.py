"""Run a program as root. Only vmnet needs that."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pytest_xhyve.host.processes import with_parent_death_signal

KILL = "/bin/kill"
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Privilege:
    """How to run one program.

    Attributes:
        prefix: the arguments to put before its command line.
        kill_command: a command that sends signals to it like kill(1); empty if this user may send them directly.
        description: how it runs, for messages.
    """

    prefix: tuple[str, ...]
    kill_command: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """A program that has exited.

    Attributes:
        code: the exit code as in `subprocess`; None if the program was killed after its limit.
        output: standard output and standard error.
    """

    code: int | None
    output: str


def find_privilege(program: str) -> Privilege:
    """How this user can run *program* as root; if that is not possible, the program runs as this user.

    The function runs sudo to find out whether it asks for a password, because ``sudo -l`` does not show that.
    """
    if os.geteuid() == 0:
        return Privilege((), (), "as root")
    mode = Path(program).stat()
    if mode.st_mode & stat.S_ISUID and mode.st_uid == 0:
        return Privilege((), (), "setuid root")
    sudo = shutil.which("sudo")
    if sudo is not None:
        as_root = (sudo, "-n", "--")
        runs = _succeeds([*as_root, program, "-v"])
        signals = _succeeds([*as_root, KILL, "-0", str(os.getpid())])
        if runs and signals:
            return Privilege(as_root, (*as_root, KILL), "by sudo")
    return Privilege((), (), "as this user")


def sudoers_line(program: str, user: str | None = None) -> str:
    """The line for sudoers(5) that permits *user* (None: the current user) what `find_privilege` tries."""
    # These characters are special in sudoers(5).
    command = re.sub(r"([ ,:=\\])", r"\\\1", program)
    return f"{user or getpass.getuser()} ALL=(root) NOPASSWD: {command}, {KILL}"


def run_to_end(privilege: Privilege, argv: Sequence[str], timeout: float) -> ProcessResult:
    """Run *argv* with *privilege* and wait for its end; kill it after *timeout* seconds.

    Raises:
        OSError: the program cannot be executed.
    """
    with subprocess.Popen(
        with_parent_death_signal([*privilege.prefix, *argv]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_all_of(process.pid)
            return ProcessResult(None, process.communicate(timeout=timeout)[0].decode(errors="replace"))
        except BaseException:
            # The with block waits until the program has exited.
            _kill_all_of(process.pid)
            raise
    return ProcessResult(process.returncode, output.decode(errors="replace"))


def _kill_all_of(pid: int) -> None:
    """Kill the process *pid* (sudo) and all processes that it started."""
    pids = [pid]
    with contextlib.suppress(psutil.Error):
        pids += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    kill(pids)


def kill(pids: Sequence[int]) -> None:
    """Kill these processes, with sudo if they belong to root; processes that have ended are ignored."""
    roots = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError:
            roots.append(str(pid))
    sudo = shutil.which("sudo")
    if roots and sudo is not None:
        _succeeds([sudo, "-n", "--", KILL, f"-{signal.SIGKILL}", *roots])


def _succeeds(argv: Sequence[str]) -> bool:
    try:
        return (
            subprocess.run(
                argv, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
