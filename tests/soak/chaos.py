"""Signals at random to the processes of a run: hypervisors, switches, guardians, workers."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

_KINDS = ("hypervisor", "switch", "guardian", "worker")
_GAP = (1.0, 8.0)
_STOPPED = (0.5, 6.0)


class Chaos:
    """Kills and stops processes until `end`.

    Args:
        run: the process of pytest.
        home: the cache folder of the run, which the command lines of its processes name.
        seed: what the choice of the victims begins with.
    """

    def __init__(self, run: psutil.Process, home: Path, seed: int) -> None:
        self._run = run
        self._home = home
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.signals: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def end(self) -> None:
        """Send no more signals; all that was stopped goes on."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(self._random.uniform(*_GAP)):
            kind = self._random.choice(_KINDS)
            victims = [process for process in processes_of(self._home, self._run) if kind_of(process) == kind]
            if not victims:
                continue
            victim = self._random.choice(victims)
            with contextlib.suppress(psutil.Error):
                if self._random.random() < 0.5:
                    victim.send_signal(signal.SIGKILL)
                    self.signals[f"{kind} killed"] += 1
                else:
                    victim.send_signal(signal.SIGSTOP)
                    self.signals[f"{kind} stopped"] += 1
                    self._over.wait(self._random.uniform(*_STOPPED))
                    victim.send_signal(signal.SIGCONT)


def processes_of(home: Path, run: psutil.Process | None) -> list[psutil.Process]:
    """The living processes of a run: those that name its cache folder, and the workers of *run*."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(str(home) in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = process
    with contextlib.suppress(psutil.Error):
        if run is not None:
            # Only those with a guardian: if a worker dies after it has reported its end, xdist has an internal error.
            workers = [child for child in run.children() if kind_of(child) == "worker" and child.children()]
            found |= {worker.pid: worker for worker in workers}
    return [process for pid, process in found.items() if run is None or pid != run.pid]


def kind_of(process: psutil.Process) -> str:
    """What *process* is, by its command line."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return "gone"
    if "qemu-system" in line:
        return "hypervisor"
    if "guardian_process" in line:
        return "guardian"
    if "switch_process" in line:
        return "switch"
    return "worker" if "import sys;exec(eval(sys.stdin.readline()))" in line else "other"


def wait_until_gone(home: Path, seconds: float) -> list[str]:
    """The command lines of the processes that name *home* and are still there after *seconds*."""
    end = time.monotonic() + seconds
    while (left := processes_of(home, None)) and time.monotonic() < end:
        time.sleep(0.1)
    return [f"{kind_of(process)} {process.pid}" for process in left]
