from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pytest_xhyve.host.locks import flock_within, locked
from pytest_xhyve.model.errors import TemplateError, XhyveError


def test_lock_that_another_process_holds_is_waited_for_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "it.lock"
    said: list[str] = []
    with FileLock(path):
        begin = time.monotonic()
        with pytest.raises(TemplateError, match=r"waited 0\.2 s for .* which builds it and holds .*it\.lock"):
            locked(path, "builds it", 0.2, said.append, TemplateError).__enter__()
        assert time.monotonic() - begin < 5
    assert [re.sub(r"[\d.]+", "N", line) for line in said] == [
        "waiting for another process, which builds it, N s so far"
    ]
    with locked(path, "builds it", 0.2, said.append):
        assert len(said) == 1


def test_lock_is_taken_when_it_is_free(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "it.lock", thread_local=False)
    lock.acquire()
    freeing = threading.Timer(0.3, lock.release)
    freeing.start()
    with locked(tmp_path / "it.lock", "builds it", 30):
        assert not lock.is_locked
    freeing.join()


def test_flock_has_a_limit(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "it", os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        flock_within(first, fcntl.LOCK_SH, 0.1)
        flock_within(second, fcntl.LOCK_SH, 0.1)
        with pytest.raises(XhyveError, match=r"held a lock in the cache folder for 0\.1 s"):
            flock_within(second, fcntl.LOCK_EX, 0.1)
        os.close(first)
        flock_within(second, fcntl.LOCK_EX, 0.1)
    finally:
        os.close(second)
