"""Give a guest only a share of its CPUs' time, by stopping its hypervisor again and again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConfigurationError, NotSupported
from pytest_xhyve.model.values import short_repr

_PERIOD_SECONDS = 0.05
_END_SECONDS = 5.0
_LEAST_SHARE = 0.01


class CpuThrottle:
    """A thread that lets a process run for a share of each period; `end` ends it.

    Args:
        pid: the hypervisor's process id.
        share: from 0.01 to 1.

    Raises:
        ConfigurationError: *share* is not such a number.
        NotSupported: this host's system cannot name a process safely (pidfd_open(2)).
    """

    def __init__(self, pid: int, share: float) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not _LEAST_SHARE <= share <= 1:
            raise ConfigurationError(f"cpu={short_repr(share)} is not a share from {_LEAST_SHARE} to 1")
        if sys.platform != "linux":
            raise NotSupported("a guest's CPU can be throttled only on Linux hosts")
        self._share = float(share)
        self._process = os.pidfd_open(pid)
        self._ending = threading.Event()
        # It must not keep pytest from exiting.
        self._thread = threading.Thread(target=self._run, name="xhyve-throttle", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the process run on; a second call does nothing."""
        self._ending.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        try:
            # The process may end at any time.
            with contextlib.suppress(ProcessLookupError):
                started = monotonic()
                while not self._ending.wait(self._share * _PERIOD_SECONDS):
                    self._send(signal.SIGSTOP)
                    # On a loaded host this thread wakes up late: the process ran for longer than its part of a period.
                    ran = monotonic() - started
                    self._ending.wait(ran * (1 - self._share) / self._share)
                    self._send(signal.SIGCONT)
                    started = monotonic()
        finally:
            os.close(self._process)

    def _send(self, number: signal.Signals) -> None:
        if sys.platform == "linux":
            signal.pidfd_send_signal(self._process, number)
