from __future__ import annotations

import io
import time
from typing import Any

from pytest_xhyve.host.http_pace import Pace, _PacedReader


def test_slow_disk_is_not_a_slow_server() -> None:
    """What is done with the bytes is not counted."""

    class Fast(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            buffer[:10] = bytes(10)
            return 10

    reader = _PacedReader(Fast(), Pace(0.05))
    for _ in range(4):
        assert reader.read(10) == bytes(10)
        time.sleep(0.05)
