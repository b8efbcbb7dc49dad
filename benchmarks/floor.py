"""The floor: the shortest straightforward script that boots an image and runs a command in it.

Of the plugin it uses the image's manifest and nothing else, so that what the plugin adds can be seen.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import paramiko

from benchmarks.measure import Boot, Clock
from pytest_xhyve.model.image import Image

PROGRAM = "qemu-system-x86_64"
MACHINE = "q35"
MACHINE_OPTIONS = "usb=off,smbus=off,sata=off,vmport=off,hpet=off"
NETWORK_CARD = "virtio-net-pci,netdev=net0,romfile=,guest_announce=off"
# The plugin's guests have a card for a LAN, with nothing at its end.
SPARE_CARD = (
    "-netdev", "hubport,id=lan0,hubid=0",
    "-device", "virtio-net-pci,id=lan-card0,netdev=lan0,romfile=,guest_announce=off,addr=0x1a",
)  # fmt: skip
HOST = "127.0.0.1"
_EMULATED_CPU = {"x86-64-v1": "qemu64", "x86-64-v2": "Nehalem", "x86-64-v3": "max"}
_MACHINE_ID = "6d0f6b7a35c54a1b8f0d2f0c9d0e4b11"
_RETRY_SECONDS = 0.02
_PEEK_SECONDS = 1.0
_PATIENCE_SECONDS = 240.0
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+-?\d+\s+\S+\s+(\d+)")


def boot(image: Image, accel: str) -> Boot:
    """Boot *image*, run the command, and take all away again."""
    clock = Clock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="floor-")))
        disk = _overlay(image, folder)
        monitor = stack.enter_context(_qemu(arguments(image, accel, disk, folder)))
        port = find_port(monitor)
        client = stack.enter_context(log_in(image, await_banner(port), port))
        output = client.exec_command("echo ready")[1].read()
        ready = clock.lap()
        assert output == b"ready\n", output
    return Boot(ready, clock.lap())


def arguments(image: Image, accel: str, disk: Path, folder: Path) -> list[str]:
    """The command line: the machine that the plugin runs, too."""
    # fmt: off
    return [
        PROGRAM,
        "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", f"{MACHINE},{MACHINE_OPTIONS}",
        "-accel", acceleration(accel),
        "-cpu", cpu_model(image, accel),
        "-smp", str(image.cpus),
        "-m", memory(image),
        "-kernel", str(image.kernel),
        *(["-initrd", str(image.initrd)] if image.initrd else []),
        "-append", command_line(image, "floor"),
        "-serial", f"file:{folder / 'console.log'}",
        "-qmp", "stdio",
        "-device", "virtio-rng-pci",
        # The disk dies with the guest, so it need never be flushed.
        "-drive", f"if=none,id=disk0,format=qcow2,file={disk},cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,id=vd0,drive=disk0",
        "-netdev", f"user,id=net0,hostfwd=tcp:{HOST}:0-:22",
        "-device", NETWORK_CARD,
        *SPARE_CARD,
    ]
    # fmt: on


def acceleration(accel: str) -> str:
    return "tcg,thread=multi,tb-size=128" if accel == "tcg" else accel


def cpu_model(image: Image, accel: str) -> str:
    return _EMULATED_CPU[image.cpu] if accel == "tcg" else "host"


def memory(image: Image) -> str:
    return f"{image.memory >> 20}M"


def command_line(image: Image, name: str) -> str:
    # Without these two, systemd does more at boot than in the plugin's guests.
    return f"{image.cmdline} systemd.hostname={name} systemd.machine_id={_MACHINE_ID}"


def _overlay(image: Image, folder: Path) -> Path:
    disk = folder / "disk.qcow2"
    base = ["-b", str(image.disk), "-F", image.format]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *base, str(disk)], check=True)
    return disk


@contextmanager
def _qemu(argv: list[str]) -> Iterator[Monitor]:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            yield Monitor(process.stdin, process.stdout)
        finally:
            process.kill()


class Monitor:
    """QMP on QEMU's standard streams."""

    def __init__(self, to_qemu: IO[bytes], from_qemu: IO[bytes]) -> None:
        self._to_qemu = to_qemu
        self._from_qemu = from_qemu
        from_qemu.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        self._to_qemu.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._to_qemu.flush()
        while "return" not in (answer := json.loads(self._from_qemu.readline())):
            assert "error" not in answer, answer
        return answer["return"]


def find_port(monitor: Monitor) -> int:
    said = monitor.execute("human-monitor-command", **{"command-line": "info usernet"})
    found = _FORWARD.search(said)
    assert found is not None, said
    return int(found[1])


def await_banner(port: int) -> socket.socket:
    """A connection on which the guest has shown its banner, which is still unread."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        connection = socket.create_connection((HOST, port))
        connection.settimeout(_PEEK_SECONDS)
        try:
            if connection.recv(4, socket.MSG_PEEK) == b"SSH-":
                return connection
        except OSError:
            pass
        connection.close()
        time.sleep(_RETRY_SECONDS)
    raise TimeoutError(f"no banner within {_PATIENCE_SECONDS:g} s")


def log_in(image: Image, connection: socket.socket, port: int) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    place = f"[{HOST}]:{port}"
    for line in image.host_keys:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{place} {line}")
        assert entry is not None
        assert entry.key is not None
        client.get_host_keys().add(place, entry.key.get_name(), entry.key)
    connection.settimeout(None)
    assert image.key is not None
    key = paramiko.PKey.from_path(image.key)
    client.connect(HOST, port, username=image.user, pkey=key, sock=connection, allow_agent=False, look_for_keys=False)
    return client
