"""The processes of this host, whoever's they are."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its id, and its command line as one text, in which words are separated by spaces."""

    pid: int
    command: str


def find_processes(text: str) -> list[Process]:
    """The processes whose command line has *text* in it, the oldest first where ids have not wrapped around."""
    return [process for process in _all_processes() if text in process.command]


def _all_processes() -> list[Process]:
    if sys.platform != "darwin":
        found = psutil.process_iter(["cmdline"])
        return [Process(process.pid, " ".join(process.info["cmdline"] or [])) for process in found]
    # There, only ps(1) may read the command lines of other users' processes.
    done = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "pid=", "-o", "command="],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    pairs = (line.strip().partition(" ")[::2] for line in done.stdout.splitlines())
    return sorted((Process(int(pid), command) for pid, command in pairs), key=lambda process: process.pid)
