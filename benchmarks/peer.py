"""The peer: labgrid's QEMUDriver and SSHDriver, put together as its manual and its examples/qemu-networking do.

The environment is read before the clock starts; the clock runs from the drivers' activation. Where that is faster
for labgrid, it gets what its users could tell it, too: QEMU's lean arguments (extra_args), and the line of the
console after which the SSHDriver is activated.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks import floor
from benchmarks.measure import Boot, Clock
from pytest_xhyve.model.image import Image

WAY = "labgrid: QEMUDriver (snapshot=on), console.expect(), add_port_forward(), SSHDriver.run()"
_PATIENCE_SECONDS = 240.0
# What the console says once the SSH server listens. That is read for two reasons. The driver's end of the serial port
# is a socket that nobody else reads, and a guest whose console is full stands still. And the SSHDriver, activated
# earlier, hangs in a connection that QEMU takes before the guest listens. The manual's own way, to wait for the login
# prompt as the ShellDriver does, is slower: debian12 shows it last.
_SERVER_STARTS = {"tiny": "Not backgrounding", "debian12": r"Started [^\n]*ssh\.service"}


def is_installed() -> bool:
    return importlib.util.find_spec("labgrid") is not None


def boot(image: Image, accel: str) -> Boot:
    """Boot *image*, run the command, and take all away again."""
    with _target(image, accel) as target:
        clock = Clock()
        qemu = target.get_driver("QEMUDriver", activate=False)
        ssh = target.get_driver("SSHDriver", activate=False)
        try:
            target.activate(qemu)
            qemu.on()
            port = importlib.import_module("labgrid.util").get_free_port()
            qemu.add_port_forward("tcp", floor.HOST, port, "", 22, netdev="net0")
            ssh.networkservice.port = port
            if image.name in _SERVER_STARTS:
                qemu.expect(_SERVER_STARTS[image.name], timeout=_PATIENCE_SECONDS)
            target.activate(ssh)
            stdout, stderr, code = ssh.run("echo ready")
            ready = clock.lap()
            assert (stdout, code) == (["ready"], 0), (stdout, stderr, code)
        finally:
            clock.lap()
            # The machine first: the SSHDriver waits for its connections to end.
            qemu.off()
            target.cleanup()
    return Boot(ready, clock.lap())


@contextmanager
def _target(image: Image, accel: str) -> Iterator[Any]:
    labgrid: Any = importlib.import_module("labgrid")
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        config = Path(folder) / "environment.yaml"
        config.write_text(yaml.safe_dump(_environment(image, accel)))
        yield labgrid.Environment(str(config)).get_target("main")


def _environment(image: Image, accel: str) -> dict[str, Any]:
    """What a user of labgrid writes in the environment's file."""
    # fmt: off
    extra = [
        "-nodefaults", "-no-user-config",
        # The driver's own machine type may have no options; QEMU adds these to it.
        "-machine", floor.MACHINE_OPTIONS,
        "-accel", floor.acceleration(accel),
        "-smp", str(image.cpus),
        "-device", "virtio-rng-pci",
        # With the driver's `nic` the card would have a boot ROM, which costs time.
        "-netdev", "user,id=net0",
        "-device", floor.NETWORK_CARD,
    ]
    # fmt: on
    if image.initrd is not None:
        extra += ["-initrd", str(image.initrd)]
    qemu = {
        "qemu_bin": "qemu",
        "machine": floor.MACHINE,
        "cpu": floor.cpu_model(image, accel),
        "memory": floor.memory(image),
        "kernel": "kernel",
        "disk": "disk",
        "disk_opts": "snapshot=on,discard=unmap",
        "boot_args": floor.command_line(image, "peer"),
        "extra_args": shlex.join(extra),
    }
    ssh = {"keyfile": str(image.key), "connection_timeout": _PATIENCE_SECONDS}
    service = {"address": floor.HOST, "username": image.user}
    return {
        "targets": {
            "main": {
                "resources": {"NetworkService": service},
                "drivers": {"QEMUDriver": qemu, "SSHDriver": ssh},
            }
        },
        "tools": {"qemu": floor.PROGRAM},
        "images": {"kernel": str(image.kernel), "disk": str(image.disk)},
    }
