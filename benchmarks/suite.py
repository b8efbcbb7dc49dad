"""A suite in which each test has a guest of its own, as users write it and run it with pytest-xdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Clock

_TEST = """\
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_answers(xhyve_guest, number):
    assert xhyve_guest.run("echo ready").stdout == "ready\\n"
"""
_NOT_PASSED_ON = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")


def run(image: str, accel: str, start: str, tests: int, workers: int) -> float:
    """The seconds that the whole run of pytest takes, from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        return run_in(Path(folder), image, start, tests, "-n", str(workers), "--xhyve-accel", accel)


def run_in(folder: Path, image: str, start: str, tests: int, *options: str) -> float:
    """As `run`, with more *options*, in a *folder* that may have a conftest.py."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_suite.py").write_text(_TEST.format(tests=tests))
    guests = ["--xhyve-image", image, "--xhyve-hypervisor", "qemu", "--xhyve-start", start]
    clock = Clock()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *guests, *options],
        check=False,
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    took = clock.lap()
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr
    return took
