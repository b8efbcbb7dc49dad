from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from pytest_xhyve.guest import throttle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a throttle needs Linux")

_LATE_SECONDS = 0.03


class LateEvent(threading.Event):
    """What a thread of a loaded host waits on: it wakes up too late."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(None if timeout is None else timeout + _LATE_SECONDS)


def test_share_holds_on_a_loaded_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Event", LateEvent)
    with subprocess.Popen([sys.executable, "-Sc", "while True: pass"]) as process:
        try:
            throttled = throttle.CpuThrottle(process.pid, 0.2)
            user, system, *_ = psutil.Process(process.pid).cpu_times()
            # What is measured needs some time.
            time.sleep(1)
            later_user, later_system, *_ = psutil.Process(process.pid).cpu_times()
            assert later_user + later_system - user - system < 0.3
            throttled.end()
            assert psutil.Process(process.pid).status() != psutil.STATUS_STOPPED
        finally:
            process.kill()
