"""A preparation that is killed in each of its phases: nothing runs on, and the next one starts from a clean state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from foreign import make_foreign_disk
from homes import share
from killing import processes_of
from waiting import becomes

from pytest_xhyve.host.digests import digest_of
from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.images.manifest import Manifest
from pytest_xhyve.preparation.prepared import find_prepared

GONE_SECONDS = 10.0
UNPACKING, COPYING, LOOKING, BOOTING, SHUTTING = (
    "unpacking ",
    "  copying it",
    "  looking into it",
    "  booting ",
    "  shutting it down",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return share(Home.of_user(), tmp_path / "home")


@contextmanager
def importing(disk: Path, home: Home) -> Iterator[subprocess.Popen[str]]:
    """A `pytest-xhyve import` that runs; it is killed (SIGKILL) at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest_xhyve.cli", "import", "--hypervisor=qemu", str(disk)],
        env={**os.environ, HOME_VARIABLE: str(home.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stderr is not None
    shown = []
    for each in process.stderr:
        shown.append(each)
        if each.startswith(line):
            return
    raise AssertionError(f"{line!r} is not in:\n{''.join(shown)}")


def workspaces(home: Home) -> set[Path]:
    return {path for name in ("prepared", "unpacked") for path in home.folder(name).glob(".*")}


def kill_in(phase: str, disk: Path, home: Home) -> set[Path]:
    """Begin to prepare *disk*, and kill that in *phase*; return what it left in the folder of prepared disks."""
    earlier = workspaces(home)
    with importing(disk, home) as process:
        read_until(process, phase)
        # What a killed preparation had left was removed when this one began.
        left = workspaces(home)
        assert len(left) == 1
        assert not left & earlier
    assert becomes(lambda: not processes_of(home), GONE_SECONDS), processes_of(home)
    assert becomes(lambda: not list(home.folder("runs").iterdir()), GONE_SECONDS)
    assert find_prepared(Manifest.of_disk(disk), home) is None
    return left


def test_killed_preparation(home: Home, tmp_path: Path) -> None:
    disk = make_foreign_disk(tmp_path / "killed.img")
    before = digest_of(disk)
    assert kill_in(BOOTING, disk, home) != kill_in(LOOKING, disk, home)
    assert digest_of(disk) == before


@pytest.mark.thorough
def test_killed_in_each_phase(home: Home, tmp_path: Path) -> None:
    raw = make_foreign_disk(tmp_path / "killed.img")
    exported, disk = tmp_path / "killed.vmdk", tmp_path / "killed.vmdk.zst"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, exported], check=True)
    subprocess.run(["zstd", "-q", "-1", exported, "-o", disk], check=True)
    before = digest_of(disk)
    for phase in (UNPACKING, COPYING, LOOKING, BOOTING, SHUTTING):
        kill_in(phase, disk, home)
    with importing(disk, home) as process:
        read_until(process, "prepared killed.vmdk.zst in ")
        assert process.wait(60) == 0
    assert find_prepared(Manifest.of_disk(disk), home) is not None
    assert workspaces(home) == set()
    assert digest_of(disk) == before
