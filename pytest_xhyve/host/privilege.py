"""How a program is run as root: vmnet wants that, and nothing else here does."""

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
        prefix: the words before its command line.
        kill_command: a command that signals it as kill(1) does; empty where this user may do that himself.
        how: for a person.
    """

    prefix: tuple[str, ...]
    kill_command: tuple[str, ...]
    how: str


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """A program that has ended: its code as `subprocess` has it (None: it took too long), and what it said."""

    code: int | None
    said: str


def find_privilege(program: str) -> Privilege:
    """The way to run *program* as root that this user has; without one, he runs it as himself.

    Whether sudo asks for a password is found out by running it: nothing in ``sudo -l`` tells.
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
    """The line that lets *user* (who runs this, otherwise) do what `find_privilege` looks for (sudoers(5))."""
    # These have a meaning there.
    command = re.sub(r"([ ,:=\\])", r"\\\1", program)
    return f"{user or getpass.getuser()} ALL=(root) NOPASSWD: {command}, {KILL}"


def run_to_end(privilege: Privilege, argv: Sequence[str], timeout: float) -> ProcessResult:
    """Run *argv* with *privilege*; after *timeout* seconds it is killed.

    Raises:
        OSError: it cannot be executed.
    """
    with subprocess.Popen(
        with_parent_death_signal([*privilege.prefix, *argv]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_all_of(process.pid)
            return ProcessResult(None, process.communicate(timeout=timeout)[0].decode(errors="replace"))
        except BaseException:
            # Popen waits for its end.
            _kill_all_of(process.pid)
            raise
    return ProcessResult(process.returncode, said.decode(errors="replace"))


def _kill_all_of(pid: int) -> None:
    """Kill the process *pid* and what it has started: sudo, and what that runs."""
    pids = [pid]
    with contextlib.suppress(psutil.Error):
        pids += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    kill(pids)


def kill(pids: Sequence[int]) -> None:
    """Kill these processes, by sudo where they are root's; those that are gone do not matter."""
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
