"""Prepare a user's disk: once for each content of the disk, kept as a layer over the untouched file.

The layer holds what the plugin changed, and what the first boot wrote: the disk itself is only read. A preparation
that fails or is interrupted leaves nothing that is ever taken for an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.host.clone import create_overlay
from pytest_xhyve.images.backing import is_based_on
from pytest_xhyve.images.check import known_digest
from pytest_xhyve.images.files import read_if_complete
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.images.manifest import read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.model.errors import CommandTimeout, ImageError, NotSupported
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.preparation.disk_file import DiskFile, check_unused_and_whole, image_name, look
from pytest_xhyve.preparation.helper_guest import HelperGuest, open_disk
from pytest_xhyve.preparation.kernel import BootFiles, choose_kernel
from pytest_xhyve.preparation.login import Login, plan_login
from pytest_xhyve.preparation.network import plan_network
from pytest_xhyve.preparation.system import check_system
from pytest_xhyve.preparation.workbench import Workbench

_FORMAT = 1
"""Counts what we ourselves changed in how a disk is prepared."""

_DIGITS = 16
_MEMORY = 1 << 30
_REST_SECONDS = 120.0
_MANIFEST = "manifest.yaml"


def prepare_disk(path: Path, bench: Workbench) -> Image:
    """The image that the disk at *path* becomes; it is prepared if that has not happened yet.

    Two preparations of one disk at the same time make one image: the second waits for the first.

    Args:
        path: the disk.
        bench: what the preparation happens in.

    Raises:
        ConfigurationError: it is not a disk.
        ImageError: no guest can be made of the disk; the message states the reason and the fix.
        BootFailed: the system on the disk did not boot.
    """
    disk = look(path)
    folder = bench.home.folder("prepared")
    checked = bench.home.folder("checked")
    key_file, client = client_key(bench.home.folder("keys"))
    digests = [known_digest(file, checked) for file in disk.files]
    key = _key(disk.format, digests, client)
    with FileLock(folder / f"{key}.lock"):
        manifest = folder / key / _MANIFEST
        image = read_if_complete(manifest)
        if image is not None and is_based_on(image.disk, digests, checked):
            return image
        with new_workspace(folder, key) as workspace:
            begin = time.monotonic()
            bench.events.progress(
                f"preparing {path.name}: this is done once, and takes about as long as one boot and shutdown of it"
            )
            content = _Preparation(disk, bench, workspace).run(key_file, client)
            _publish(workspace, folder / key, content)
            bench.events.progress(f"prepared {path.name} in {time.monotonic() - begin:.0f} s")
        return read_manifest(manifest)


def _key(disk_format: str, digests: Sequence[str], client: KeyPair) -> str:
    text = json.dumps([_FORMAT, disk_format, digests, client.public])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


class _Preparation:
    """One preparation, in a folder of its own."""

    def __init__(self, disk: DiskFile, bench: Workbench, workspace: Path) -> None:
        self._disk = disk
        self._bench = bench
        self._workspace = workspace
        self._name = image_name(disk.path)

    def run(self, key_file: Path, client: KeyPair) -> dict[str, Any]:
        """Prepare the disk in the workspace; return the manifest."""
        bench = self._bench
        check_unused_and_whole(self._disk)
        if "qcow2" not in bench.hypervisor.disk_formats:
            raise NotSupported(
                f"{bench.hypervisor.info.name} needs a raw disk, and a prepared disk is a qcow2 layer over yours; QEMU "
                "takes it (--xhyve-hypervisor=qemu)"
            )
        layer = Disk(self._workspace / "layer.qcow2", "qcow2")
        create_overlay(self._disk.path, self._disk.format, layer.path)
        bench.events.progress("  looking into it")
        with open_disk(bench, layer, self._workspace) as helper:
            helper.look()
            check_system(helper.facts, self._disk.path)
            boot, login = self._change(helper, client)
            helper.close()
        kernel = self._workspace / Path(boot.kernel).name
        self._check_kernel(kernel)
        bench.events.progress(f"  booting {helper.facts.system}")
        image = Image(
            name=self._name,
            manifest=self._workspace / _MANIFEST,
            arch=helper.facts.architecture,
            disk=layer.path,
            format="qcow2",
            size=None,
            sha256=None,
            kernel=kernel,
            initrd=None if boot.initrd is None else self._workspace / Path(boot.initrd).name,
            cmdline=boot.cmdline,
            user=login.user,
            key=key_file,
            host_keys=login.host_keys,
            cpus=1,
            memory=_MEMORY,
            cpu="x86-64-v2",
        )
        state = self._first_boot(image, layer)
        return self._manifest(image, helper, boot, state)

    def _change(self, helper: HelperGuest, client: KeyPair) -> tuple[BootFiles, Login]:
        boot = choose_kernel(helper.facts)
        login = plan_login(helper.facts, client)
        helper.write([*login.files, *plan_network(helper.facts)])
        helper.copy([boot.kernel, *([boot.initrd] if boot.initrd else [])], self._workspace)
        return boot, login

    def _check_kernel(self, kernel: Path) -> None:
        if read_kernel_header(kernel) is None:
            raise ImageError(f"/boot/{kernel.name} on {self._disk.path} is not a Linux kernel for x86-64 (a bzImage)")

    def _first_boot(self, image: Image, layer: Disk) -> str:
        """Boot the layer, wait until the system is at rest, and shut it down; return the state of the system."""
        bench = self._bench
        with bench.guard(self._name, image) as process:
            machine = bench.machine(self._name, image, (layer,))
            guest = Guest(bench.instance(image, process), machine)
            guest._boot_or_restore()
            try:
                state = _wait_for_rest(guest)
                bench.events.progress("  shutting it down")
                guest.shutdown()
            finally:
                guest._switch_off()
        return state

    def _manifest(self, image: Image, helper: HelperGuest, boot: BootFiles, state: str) -> dict[str, Any]:
        assert image.disk is not None
        return {
            "name": image.name,
            "arch": image.arch,
            "disk": image.disk.name,
            "format": image.format,
            "kernel": image.kernel.name,
            **({"initrd": image.initrd.name} if image.initrd else {}),
            "cmdline": image.cmdline,
            "user": image.user,
            "key": os.path.relpath(image.key, self._workspace),
            "host_keys": list(image.host_keys),
            "cpus": image.cpus,
            "memory": f"{image.memory >> 20}M",
            "cpu": image.cpu,
            "made": {
                "from": str(self._disk.path),
                "system": helper.facts.system,
                "kernel_chosen_by": boot.source,
                "state": state,
                "on": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }


def _wait_for_rest(guest: Guest) -> str:
    """Wait until the system has started all that it starts; return its state, as systemctl(1) names it."""
    line = (
        "if [ -d /run/systemd/system ]; then systemctl is-system-running --wait; else echo running; fi; "
        "if command -v cloud-init >/dev/null; then cloud-init status --wait >/dev/null 2>&1; fi; true"
    )
    with contextlib.suppress(CommandTimeout):
        return guest.run(line, check=False, timeout=_REST_SECONDS).stdout.strip()[:40] or "unknown"
    return "starting"


def _publish(workspace: Path, target: Path, content: dict[str, Any]) -> None:
    """Publish *workspace* as the image: it gets its name in one step."""
    disk = workspace / content["disk"]
    content["size"] = disk.stat().st_size
    seal(*(workspace / content[key] for key in ("disk", "kernel", "initrd") if key in content))
    write_manifest(workspace / _MANIFEST, content)
    shutil.rmtree(target, ignore_errors=True)
    workspace.rename(target)
