from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_xhyve.host.exhaustion import explain_exhaustion, find_cure, is_exhausted
from pytest_xhyve.host.home import Home
from pytest_xhyve.model.errors import HypervisorExited, ImageError, XhyveError


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "--xhyve-max-guests"),
    ],
)
def test_states_what_is_missing_and_the_cure(tmp_path: Path, number: int, cure: str) -> None:
    at = str(tmp_path / "images" / "tiny")
    with pytest.raises(XhyveError, match=os.strerror(number)) as raised, Home(tmp_path).explain_os_errors():
        raise OSError(number, os.strerror(number), at)
    assert cure in str(raised.value)
    # The folder is not at fault.
    assert "cache folder" not in str(raised.value)


def test_cause_beats_what_it_made_fail(tmp_path: Path) -> None:
    with pytest.raises(XhyveError, match="Too many open files") as raised, Home(tmp_path).explain_os_errors():
        raise ImageError("cannot clone disk.img; build the image again") from OSError(errno.EMFILE, "x")
    assert "build" not in str(raised.value)


def test_other_errors_are_others() -> None:
    # A lock that another process has.
    assert not is_exhausted(BlockingIOError(errno.EAGAIN, "x"))
    assert find_cure(f"Failed to lock byte 100: {os.strerror(errno.EAGAIN)}") is None
    assert find_cure(f"qemu_thread_create: {os.strerror(errno.EAGAIN)}") is not None
    assert explain_exhaustion(OSError(errno.ENOENT, "x")) is None
    assert not is_exhausted(HypervisorExited("QEMU ended with exit code 1"))
    assert find_cure("qemu: could not load kernel") is None


def test_found_in_causes_and_in_a_hypervisors_output() -> None:
    error = XhyveError("cannot build a template")
    error.__cause__ = OSError(errno.ENFILE, "x")
    assert is_exhausted(error)
    assert is_exhausted(HypervisorExited(f"QEMU 7.2 ended: {os.strerror(errno.ENOMEM)}"))
