"""A guest under vfkit's stand-in: its console, the REST interface, what ends it."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import becomes

from pytest_xhyve.model.image import Image
from standin.conftest import copy_disk
from standin.mac import Mac
from standin.running import BOOT_SECONDS, QUICK, START_SECONDS, Running

MAC = "52:54:00:0a:0b:0c"


@dataclass(frozen=True)
class Vfkit:
    """A vfkit that runs in *folder*; *terminal* is the other end of its standard input."""

    running: Running
    folder: Path
    terminal: int

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        """One request to the REST interface."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.folder / "rest"))
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None

    def state(self) -> object:
        status, content = self.ask("GET", "/vm/state")
        assert status == 200
        assert isinstance(content, dict)
        return content["state"]

    def shows(self, text: str, seconds: float = BOOT_SECONDS) -> bool:
        """Whether *text* gets to the standard output."""
        return becomes(lambda: text in self.running.stdout, seconds)


@pytest.fixture(scope="session")
def program(mac: Mac, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mac.install_vfkit(tmp_path_factory.mktemp("programs") / "vfkit")


@pytest.fixture
def vfkit(program: Path, tiny: Image, tmp_path: Path) -> Iterator[Vfkit]:
    copy_disk(tiny, tmp_path / "disk")
    master, slave = pty.openpty()
    # fmt: off
    argv: list[str | Path] = [
        program, "-m", "128", "--restful-uri", f"unix://{tmp_path}/rest", "--pidfile", f"{tmp_path}/pid",
        "--kernel", str(tiny.kernel), "--initrd", str(tiny.initrd),
        "--kernel-cmdline", f"root=/dev/vda console=hvc0 net.ifnames=0 {QUICK}",
        "--device", f"virtio-blk,path={tmp_path}/disk", "--device", "virtio-rng",
        "--device", f"virtio-net,nat,mac={MAC}", "--device", "virtio-serial,stdio",
    ]
    # fmt: on
    with Running(argv, stdin=slave) as running:
        os.close(slave)
        yield Vfkit(running, tmp_path, master)
    os.close(master)


def test_life_of_a_guest(vfkit: Vfkit) -> None:
    assert vfkit.shows("login: ")
    running = vfkit.running
    assert (vfkit.folder / "pid").read_text() == str(running.process.pid)
    assert 'level=info msg="virtual machine is running"' in running.stderr
    assert vfkit.state() == "VirtualMachineStateRunning"
    status, configuration = vfkit.ask("GET", "/vm/inspect")
    assert status == 200
    assert isinstance(configuration, dict)
    assert configuration["memoryBytes"] == 128 << 20
    # gin logs to the standard output, among what the guest writes.
    assert "| 200 |" in running.stdout
    assert '"/vm/inspect"' in running.stdout

    assert vfkit.ask("POST", "/vm/state", {"state": "Resume"})[0] == 500
    assert vfkit.ask("POST", "/vm/state", {"state": "Sleep"})[0] == 500
    assert vfkit.ask("POST", "/vm/state", {})[0] == 400
    assert vfkit.ask("POST", "/vm/state", {"state": "Pause"}) == (202, None)
    assert vfkit.state() == "VirtualMachineStatePaused"
    os.write(vfkit.terminal, b"typed-while-paused\n")
    assert not vfkit.shows("typed", 0.5)
    assert vfkit.ask("POST", "/vm/state", {"state": "Resume"}) == (202, None)
    # The log of the last request may come between two letters that the guest echoes, and not in what it answers later.
    assert vfkit.shows("Password: ", START_SECONDS)

    running.signal(signal.SIGTERM)
    # The guest handles its power button within the five seconds, or is stopped after them.
    assert running.wait() == 0
    assert 'level=info msg="VM is stopped"' in running.stderr
    assert not (vfkit.folder / "rest").exists()
    assert (vfkit.folder / "pid").exists()


def test_errors_before_the_guest_runs(program: Path, tiny: Image, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = subprocess.run([program, *words], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    kernel = ("-k", str(tiny.kernel), "-i", str(tiny.initrd), "-C", "console=hvc0")
    gone = run("-k", "gone", *kernel[2:])
    assert gone == "invalid linux kernel path: stat gone: no such file or directory"
    # /dev/null is no terminal.
    assert run(*kernel, "-d", "virtio-serial,stdio") == "inappropriate ioctl for device"
    for fd, error in (
        ("0", "getsockopt: socket operation on non-socket"),
        ("77", "getsockopt: bad file descriptor"),
    ):
        assert run(*kernel, "-d", f"virtio-net,fd={fd},mac={MAC}") == error
    (tmp_path / "rest").touch()
    in_use = run(*kernel, "--restful-uri", f"unix://{tmp_path}/rest")
    assert in_use.endswith(f'level=fatal msg="listen unix {tmp_path}/rest: bind: address already in use"')
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.startswith("vfkit version: v")
