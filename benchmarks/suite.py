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


def run(image: str, accel: str, start: str, tests: int, workers: int) -> float:
    """The seconds that the whole run of pytest takes, from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="suite-") as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_suite.py").write_text(_TEST.format(tests=tests))
        unset = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
        # fmt: off
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-n", str(workers),
            "--xhyve-image", image,
            "--xhyve-hypervisor", "qemu",
            "--xhyve-accel", accel,
            "--xhyve-start", start,
        ]
        # fmt: on
        clock = Clock()
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env={key: value for key, value in os.environ.items() if key not in unset},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        took = clock.lap()
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr
    return took
