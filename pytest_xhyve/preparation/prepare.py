"""Prepare a user's disk: once for each content of the disk, kept as a layer over the untouched file.

The layer holds what the plugin changed, and what the first boot wrote: the disk itself is only read. A preparation
that fails or is interrupted leaves nothing that is ever taken for an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.guest.waits import wait_for_units
from pytest_xhyve.host.clone import create_overlay
from pytest_xhyve.images.backing import is_valid_layer
from pytest_xhyve.images.check import known_digest
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ImageError, NotSupported
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.preparation.disk_file import DiskFile, check_unused_and_whole, copy_as_qcow2, image_name, look
from pytest_xhyve.preparation.helper_guest import open_disk
from pytest_xhyve.preparation.kernel import choose_kernel
from pytest_xhyve.preparation.login import plan_login
from pytest_xhyve.preparation.network import plan_network
from pytest_xhyve.preparation.run_context import RunContext
from pytest_xhyve.preparation.system import check_system

_FORMAT = 1
"""Counts what we ourselves changed in how a disk is prepared."""

_DIGITS = 16
_MEMORY = "1G"
_MANIFEST = "manifest.yaml"


def prepare_disk(path: Path, context: RunContext) -> Image:
    """The image that the disk at *path* becomes; it is prepared if that has not happened yet.

    Two preparations of one disk at the same time make one image: the second waits for the first.

    Args:
        path: the disk.
        context: the run that it happens in.

    Raises:
        ConfigurationError: it is not a disk.
        ImageError: no guest can be made of the disk; the message states the reason and the fix.
        BootFailed: the system on the disk did not boot.
    """
    disk = look(path)
    folder = context.home.folder("prepared")
    checked = context.home.folder("checked")
    key_file, client = client_key(context.home.folder("keys"))
    digests = [known_digest(file, checked) for file in disk.files]
    key = _key(disk.format, digests, client)
    with FileLock(folder / f"{key}.lock"):
        manifest = folder / key / _MANIFEST
        image = read_if_complete(manifest)
        if image is not None and is_valid_layer(image.disk, digests, checked):
            return image
        with new_workspace(folder, key) as workspace:
            begin = monotonic()
            context.events.progress(
                f"preparing {path.name}: this is done once, and takes about as long as one boot and shutdown of it"
            )
            content = _Preparation(disk, context, workspace).run(key_file, client)
            _publish(workspace, folder / key, content)
            context.events.progress(f"prepared {path.name} in {monotonic() - begin:.0f} s")
        return read_manifest(manifest)


def _key(disk_format: str, digests: Sequence[str], client: KeyPair) -> str:
    text = json.dumps([_FORMAT, disk_format, digests, client.public])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


class _Preparation:
    """One preparation, in a folder of its own."""

    def __init__(self, disk: DiskFile, context: RunContext, workspace: Path) -> None:
        self._disk = disk
        self._context = context
        self._workspace = workspace
        self._layer = Disk(workspace / "layer.qcow2", "qcow2")

    def run(self, key_file: Path, client: KeyPair) -> dict[str, Any]:
        """Prepare the disk in the workspace; return the content of the manifest."""
        context = self._context
        check_unused_and_whole(self._disk)
        if self._layer.format not in context.hypervisor.disk_formats:
            raise NotSupported(
                f"{context.hypervisor.info.name} needs a raw disk, and a prepared disk is a qcow2 layer over yours\n"
                "  QEMU takes it: --xhyve-hypervisor=qemu"
            )
        if self._disk.can_be_saved:
            create_overlay(self._disk.path, self._disk.format, self._layer.path)
        else:
            context.events.progress(f"  copying it, as {self._disk.format} disks cannot be restored")
            copy_as_qcow2(self._disk, self._layer.path)
        context.events.progress("  looking into it")
        content = self._change(client) | {"key": os.path.relpath(key_file, self._workspace)}
        write_manifest(self._workspace / _MANIFEST, content)
        image = read_manifest(self._workspace / _MANIFEST)
        if read_kernel_header(image.kernel) is None:
            raise ImageError(f"the kernel on {self._disk.path} is not a Linux kernel for x86-64 (a bzImage)")
        context.events.progress(f"  booting {content['made']['system']}")
        content["made"]["state"] = self._boot_once(image)
        return content

    def _change(self, client: KeyPair) -> dict[str, Any]:
        """Write what the plugin needs into the layer, and copy the kernel out; return what the manifest states."""
        with open_disk(self._context, self._layer, self._workspace) as helper:
            facts = helper.look()
            check_system(facts, self._disk.path)
            boot = choose_kernel(facts)
            login = plan_login(facts, client)
            helper.write([*login.files, *plan_network(facts)])
            copies = {"kernel": (boot.kernel, "vmlinuz")}
            if boot.initrd is not None:
                copies["initrd"] = (boot.initrd, "initrd.img")
            helper.close({path: self._workspace / name for path, name in copies.values()})
        return {
            "name": image_name(self._disk.path),
            "arch": facts.architecture,
            "disk": self._layer.path.name,
            "format": self._layer.format,
            **{key: name for key, (_, name) in copies.items()},
            "cmdline": boot.cmdline,
            "user": login.user,
            "host_keys": list(login.host_keys),
            "memory": _MEMORY,
            "made": {
                "from": str(self._disk.path),
                "system": facts.system,
                "kernel": f"/{boot.kernel} ({boot.source})",
                "on": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }

    def _boot_once(self, image: Image) -> str:
        """Boot the layer, wait until the system is at rest, and shut it down; return the state of the system."""
        with self._context.booted(image.name, image, self._layer) as guest:
            state = wait_for_units(guest.run, self._context.timeouts.settle)
            self._context.events.progress("  shutting it down")
            guest.shutdown()
        return state


def _publish(workspace: Path, target: Path, content: dict[str, Any]) -> None:
    """Publish *workspace* as the image: it gets its name in one step."""
    disk = workspace / content["disk"]
    content["size"] = disk.stat().st_size
    seal(*(workspace / content[key] for key in ("disk", "kernel", "initrd") if key in content))
    write_manifest(workspace / _MANIFEST, content)
    shutil.rmtree(target, ignore_errors=True)
    workspace.rename(target)
