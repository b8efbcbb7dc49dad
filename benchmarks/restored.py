"""The floor of warm guests: the shortest straightforward script that restores a template and runs a command in it.

Of the plugin it uses the template's files and nothing else. What it restores keeps the template's identity, as a
script does that restores one guest at a time: its own UUID, addresses and random numbers are what the plugin adds.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import floor
from benchmarks.measure import Boot, Clock
from pytest_xhyve.model.image import Image

_POLL_SECONDS = 0.002
_CAPABILITY = {"capability": "x-ignore-shared", "state": True}


@dataclass(frozen=True, slots=True)
class Saved:
    """The files of a template: its memory, the state of its devices, and its disk in qcow2."""

    memory: Path
    state: Path
    disk: Path


def boot(image: Image, accel: str, saved: Saved) -> Boot:
    """Restore *saved*, run the command, and take all away again."""
    clock = Clock()
    phases = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="restored-")))
        disk = folder / "disk.qcow2"
        base = ["-b", str(saved.disk), "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(disk)], check=True)
        phases["clone"] = clock.lap()
        with saved.state.open("rb") as state:
            argv = arguments(image, accel, saved, disk, folder)
            monitor = stack.enter_context(_qemu(argv, state.fileno()))
            phases["start"] = clock.lap()
            monitor.execute("migrate-set-capabilities", capabilities=[_CAPABILITY])
            monitor.execute("migrate-incoming", uri=f"fd:{state.fileno()}")
        while monitor.execute("query-status")["status"] == "inmigrate":
            time.sleep(_POLL_SECONDS)
        monitor.execute("cont")
        port = floor.find_port(monitor)
        phases["restore"] = clock.lap()
        connection = floor.await_banner(port)
        phases["banner"] = clock.lap()
        client = stack.enter_context(floor.log_in(image, connection, port))
        phases["login"] = clock.lap()
        output = client.exec_command("echo ready")[1].read()
        phases["command"] = clock.lap()
        assert output == b"ready\n", output
    return Boot(sum(phases.values()), clock.lap(), phases)


def arguments(image: Image, accel: str, saved: Saved, disk: Path, folder: Path) -> list[str]:
    """The command line: that of a guest that boots, what a template has beside it, and what restores it."""
    # fmt: off
    return [
        *floor.arguments(image, accel, disk, folder),
        "-object", f"memory-backend-file,id=ram,size={floor.memory(image)},share=off,mem-path={saved.memory}",
        "-machine", "memory-backend=ram",
        "-serial", "null",
        "-S", "-incoming", "defer",
    ]
    # fmt: on


@contextmanager
def _qemu(argv: list[str], state: int) -> Iterator[floor.Monitor]:
    os.set_inheritable(state, True)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[state]) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            yield floor.Monitor(process.stdin, process.stdout)
        finally:
            process.kill()
