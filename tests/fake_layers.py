"""Layers as guests leave them, without a guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pytest_xhyve.host.home import Home
from pytest_xhyve.host.layer_file import copy_layer
from pytest_xhyve.images.layers import LayerStore
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk

BLOCK = 1 << 16


def qemu_io(disk: Path, *commands: str) -> str:
    argv = ["qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), str(disk)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def clone_of(disk: Disk, path: Path, pattern: int, at: int = 0) -> Disk:
    """A disk as a guest leaves it: what is below it, and a block of its own."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk.path), "-F", disk.format, str(path), "1M"]
    subprocess.run(argv, check=True)
    qemu_io(path, f"write -P {pattern} {at} {BLOCK}")
    return Disk(path, "qcow2")


def make_layer(home: Home, base: Image, name: str, pattern: int, tmp_path: Path) -> Image:
    store, disk = LayerStore(home), Disk(base.disk, base.format)
    key = store.key(base, {"run": [name]})
    with store.making(key, print) as workspace:
        clone = clone_of(disk, tmp_path / f"{name}.qcow2", pattern, at=pattern * BLOCK)
        layer = copy_layer(clone, disk, workspace)
        return store.publish(workspace, key, base, layer, {"name": name}, {"recipe": name})
