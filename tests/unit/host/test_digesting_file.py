from __future__ import annotations

import time
from pathlib import Path

from pytest_xhyve.host.digesting_file import DigestingFile


def test_slow_digest_holds_little_in_memory(tmp_path: Path) -> None:
    """Batches wait for the digest; the download waits for them once they are some."""
    taken, at_once = [], []

    class Slow:
        def update(self, data: bytes) -> None:
            time.sleep(0.01)
            taken.append(len(data))

    with (tmp_path / "file").open("ab") as file, DigestingFile(file, Slow()) as sink:
        for number in range(40):
            sink.write(bytes(1 << 20))
            at_once.append(number + 1 - len(taken))
        sink.finish()
    assert sum(taken) == 40 << 20 == (tmp_path / "file").stat().st_size
    assert max(at_once) <= 12
