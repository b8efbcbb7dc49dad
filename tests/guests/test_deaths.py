"""Runs that are ended by force, in the middle of each stage: nothing of them is left, and the image is what it was.

Each is a real pytest in a process group of its own, on a real image, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from chosen import Chosen
from homes import KNOWN, share
from waiting import becomes

from pytest_xhyve.host.home import HOME_VARIABLE, Home
from pytest_xhyve.host.vanishing import find_existing, size_of
from pytest_xhyve.images.build import build_image
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.settings import Settings

GONE_SECONDS = 2.0

pytestmark = pytest.mark.run_under("warm", "xhyve")
SUITE = """
import pathlib
import time

def test_guest(xhyve_guest):
    xhyve_guest.run("echo written by the test > /root/file; sync")
    pathlib.Path("in-test").touch()
    time.sleep(600)
"""

# A clone takes a hundredth of a second; here it takes long enough to die in.
SLOW_QEMU_IMG = """#!/bin/sh
touch in-clone
sleep 1.5
exec {} "$@"
"""


@pytest.fixture(scope="module")
def tiny() -> Image:
    return build_image("tiny", Home.of_user(), print)


@dataclass
class Run:
    """A pytest that runs, and what belongs to it."""

    process: subprocess.Popen[bytes]
    folder: Path
    home: Home

    def processes(self) -> list[psutil.Process]:
        """All that name the run's folder, be it pytest, its guardian or a hypervisor; the dead do not count."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ", "status"]):
            words = process.info["cmdline"] or []
            if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(self.home.path) in word for word in words):
                found.append(process)
        return found

    def guardian(self) -> psutil.Process:
        (guardian,) = [p for p in self.processes() if any("guardian_process" in word for word in p.cmdline())]
        return guardian

    def ports(self) -> list[int]:
        """The TCP ports on which the run's processes listen."""
        return [
            connection.laddr.port
            for process in self.processes()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]

    def leftovers(self) -> list[str]:
        """What is left of clones, folders and held slots."""
        runs = self.home.path / "runs"
        left = [str(path) for path in runs.iterdir()] if runs.exists() else []
        for slot in (self.home.path / "slots").glob("*.lock"):
            with slot.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    left.append(f"{slot} is held")
        return left


@pytest.fixture
def run(request: pytest.FixtureRequest, tiny: Image, tmp_path: Path, hypervisor: Chosen) -> Iterator[Run]:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "test_it.py").write_text(SUITE)
    programs = tmp_path / "programs"
    programs.mkdir()
    slow = programs / "qemu-img"
    slow.write_text(SLOW_QEMU_IMG.format(shutil.which("qemu-img")))
    slow.chmod(0o700)
    # That a guest boots, or is made a template, takes long enough to die in.
    is_in_test = request.node.callspec.params.get("stage") is in_test
    home = share(Home.of_user(), tmp_path / "home", (*KNOWN, *(["templates"] if is_in_test else [])))
    process = subprocess.Popen(
        # This run may itself ignore Ctrl-C, as one in the background of a script does.
        [
            *("env", "--default-signal=INT", sys.executable, "-m", "pytest", "-q"),
            *(f"--xhyve-image={tiny.manifest}", *hypervisor.options),
        ],
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", HOME_VARIABLE: str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    run = Run(process, folder, home)
    yield run
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for left in run.processes():
        left.kill()


def in_clone(run: Run) -> bool:
    return (run.folder / "in-clone").exists()


def in_boot(run: Run) -> bool:
    return any(size_of(log) > 1000 for log in find_existing(run.home.path / "runs", "*/*/console.log"))


def in_test(run: Run) -> bool:
    return (run.folder / "in-test").exists()


def ctrl_c(run: Run) -> None:
    """As a terminal does it: to every process in the foreground."""
    os.killpg(run.process.pid, signal.SIGINT)


def kill(run: Run) -> None:
    run.process.kill()


def kill_both(run: Run) -> None:
    guardian = run.guardian()
    # Before it can notice that pytest is gone.
    guardian.suspend()
    run.process.kill()
    guardian.kill()


def digest(image: Image) -> str:
    with image.disk.open("rb") as disk:
        return hashlib.file_digest(disk, "sha256").hexdigest()


@pytest.mark.thorough_under("xhyve")
@pytest.mark.parametrize("death", [ctrl_c, kill, kill_both])
@pytest.mark.parametrize("stage", [in_clone, in_boot, in_test])
def test_nothing_is_left(
    run: Run, tiny: Image, stage: Callable[[Run], bool], death: Callable[[Run], None], hypervisor: Chosen
) -> None:
    if stage is in_clone and hypervisor.name != "qemu":
        pytest.skip("its clones are made by no program that could be slow")
    assert becomes(lambda: stage(run), 60), run.process.poll()
    ports = run.ports()
    # Under the others a guest has an address of its own, and nothing listens here.
    assert bool(ports) == (stage is not in_clone and hypervisor.name == "qemu")

    death(run)

    start = time.monotonic()
    assert becomes(lambda: run.process.poll() is not None, GONE_SECONDS), "pytest itself still runs"
    assert becomes(lambda: not run.processes(), GONE_SECONDS - (time.monotonic() - start)), run.processes()
    if death is kill_both:
        # Nobody was left to remove the clone; the next run does, and so does this.
        subprocess.run(
            [sys.executable, "-m", "pytest_xhyve.cli", "reap"],
            check=True,
            env=os.environ | {HOME_VARIABLE: str(run.home.path)},
            capture_output=True,
        )
        assert run.leftovers() == []
    else:
        assert becomes(lambda: not run.leftovers(), GONE_SECONDS - (time.monotonic() - start)), run.leftovers()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert tiny.sha256 == digest(tiny)


def test_next_run_removes_what_a_dead_one_left(run: Run, tiny: Image, settings: Settings) -> None:
    assert becomes(lambda: in_boot(run), 60)
    kill_both(run)
    run.process.wait()
    (left,) = (run.home.path / "runs").iterdir()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pytest_xhyve.fleet.fleet import Fleet\n"
            "from pytest_xhyve.fleet.request import ForegroundRequest\n"
            "from pytest_xhyve.model.spec import GuestSpec\n"
            "from pytest_xhyve.host.home import Home\n"
            "from pytest_xhyve.model.settings import Settings\n"
            f"settings = Settings(hypervisor={settings.hypervisor!r}, executable={settings.executable!r})\n"
            "fleet = Fleet(settings, Home.of_user())\n"
            f"with fleet.start(ForegroundRequest(GuestSpec(image={str(tiny.manifest)!r}))) as guest:\n"
            "    print(guest.run('echo well').stdout)\n"
            "fleet.close()\n",
        ],
        check=True,
        env=os.environ | {HOME_VARIABLE: str(run.home.path)},
        capture_output=True,
        text=True,
    )
    assert "well" in done.stdout
    assert not left.exists()
    assert run.leftovers() == []
