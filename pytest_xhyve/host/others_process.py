"""A guest whose process another process of the plugin has started."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_xhyve.host.guardian import GuardedProcess
from pytest_xhyve.host.guest_folder import OUTPUT, RECORD
from pytest_xhyve.host.processes import is_running
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import NotSupported

_LOOK_SECONDS = 0.02


class OthersProcess(GuardedProcess):
    """The process of a guest, which this process can watch only.

    Args:
        folder: a folder of this process for files about the guest.
        origin: the guest's own folder; the guardian of its owner removes it when the guest ends.
        pid: the hypervisor's process id.
    """

    def __init__(self, folder: Path, origin: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        # Nothing here may end it.
        self.is_kept = True
        self._origin = origin

    def wait(self, timeout: float) -> int | None:
        """Wait up to *timeout* seconds until the guest ends; only its owner knows the hypervisor's exit code."""
        end = monotonic() + timeout
        while (self._origin / RECORD).exists() and is_running(self.pid or 0):
            if monotonic() >= end:
                return None
            time.sleep(_LOOK_SECONDS)
        return -signal.SIGKILL

    def output(self) -> str:
        try:
            return (self._origin / OUTPUT).read_text(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """Nothing of the guest is this process's own."""

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:  # noqa: ARG002
        raise NotSupported("the guest belongs to another process, which alone can start, signal or keep it")
