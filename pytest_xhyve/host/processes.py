"""Processes of this host: find them, and start children that end with their parent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_PS_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process of any user: its id, and its command line with the arguments joined by spaces."""

    pid: int
    command: str


def find_processes(text: str) -> list[Process]:
    """The processes whose command line contains *text*, in the order of their ids."""
    return [process for process in _all_processes() if text in process.command]


def is_running(pid: int) -> bool:
    """Whether process *pid* runs.

    A process that has ended stays until its parent has waited for it (wait(2)), which the first process of a container
    may never do. It does not run.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        # A host may hide other users' processes (hidepid in proc(5)).
        return psutil.pid_exists(pid)


def find_start(pid: int) -> float | None:
    """When process *pid* started, in ticks of a clock that cannot be set; None if there is no such process.

    Together with the id, this distinguishes a process from a later one. The time since the epoch does not: on Linux, it
    is computed from the host's clock as it is now, so it changes when someone sets that clock.
    """
    try:
        if sys.platform == "linux":
            # The 22nd field, in clock ticks since the host booted (proc(5)); the second may contain anything.
            return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
        return psutil.Process(pid).create_time()
    except (OSError, psutil.Error, ValueError, IndexError):
        return None


def cpu_seconds(pid: int) -> float:
    """The CPU time that process *pid* has used, in seconds; 0 if it has ended."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return used.user + used.system


def _all_processes() -> list[Process]:
    if sys.platform != "darwin":
        found = psutil.process_iter(["cmdline"])
        return [Process(process.pid, " ".join(process.info["cmdline"] or [])) for process in found]
    # On macOS, only ps(1) may read the command lines of other users' processes.
    done = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "pid=", "-o", "command="],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PS_SECONDS,
    )
    pairs = (line.strip().partition(" ")[::2] for line in done.stdout.splitlines())
    return sorted((Process(int(pid), command) for pid, command in pairs), key=lambda process: process.pid)


def with_parent_death_signal(argv: Sequence[str], signal: str = "KILL") -> list[str]:
    """*argv* as a command line whose program gets *signal* (``KILL``, ``TERM``, …) when this process dies.

    It uses setpriv(1), which Linux has. On a host without it, as macOS, *argv* is returned unchanged. The signal does
    not reach processes that the program starts.
    """
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", signal, "--"] if setpriv else []), *argv]


def run_program(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    merges_streams: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the host to its end, with nothing on its standard input; it does not outlive this process.

    Args:
        argv: the program and its arguments.
        timeout: the limit in seconds, after which the program is killed.
        cwd: the folder in which it runs; None for that of this process.
        environment: all of its environment variables; None for those of this process.
        merges_streams: whether the standard error is part of the standard output.

    Returns:
        its exit code and its output, in which a character stands for bytes that are not UTF-8.

    Raises:
        OSError: the program cannot be started.
        subprocess.TimeoutExpired: it did not end in time.
    """
    return subprocess.run(
        with_parent_death_signal([os.fspath(word) for word in argv]),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merges_streams else subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=cwd,
        env=environment,
    )


@contextmanager
def process_descriptor(pid: int | None) -> Iterator[list[int]]:
    """A descriptor that shows when the process *pid* ends; empty if this system has none, or *pid* is None."""
    if pid is None or not hasattr(os, "pidfd_open"):
        yield []
        return
    fd = os.pidfd_open(pid)
    try:
        yield [fd]
    finally:
        os.close(fd)
