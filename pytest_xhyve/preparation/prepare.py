"""Prepare a user's disk: once for each content of the disk, kept as a layer over the untouched file.

The layer holds what the plugin changed, and what the first boot wrote: the disk itself is only read. A preparation
that fails or is interrupted leaves nothing that is ever taken for an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from pytest_xhyve.formats.bzimage import read_kernel_header
from pytest_xhyve.guest.waits import wait_for_units
from pytest_xhyve.host.clone import create_overlay
from pytest_xhyve.images.backing import is_valid_layer
from pytest_xhyve.images.check import known_digest
from pytest_xhyve.images.files import check_stated_files, read_if_complete
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.images.manifest import Manifest, read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import ConfigurationError, ImageError, NotSupported
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.preparation.disk_file import DiskFile, check_unused_and_whole, copy_as_qcow2, look
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.helper_guest import open_disk
from pytest_xhyve.preparation.kernel import BootFiles, choose_cmdline, choose_kernel
from pytest_xhyve.preparation.login import plan_login
from pytest_xhyve.preparation.network import plan_network
from pytest_xhyve.preparation.run_context import RunContext
from pytest_xhyve.preparation.system import check_system

_FORMAT = 2
"""Counts what we ourselves changed in how a disk is prepared."""

_DIGITS = 16
_MEMORY = "1G"
_MANIFEST = "manifest.yaml"
_KERNEL = "vmlinuz"
_INITRD = "initrd.img"


def prepare_disk(manifest: Manifest, context: RunContext) -> Image:
    """The image that a disk becomes; it is prepared if that has not happened yet.

    Two preparations of one disk at the same time make one image: the second waits for the first.

    Args:
        manifest: names the disk, and states what need not be found out.
        context: the run that it happens in.

    Raises:
        ConfigurationError: it is not a disk.
        ImageError: no guest can be made of the disk; the message states the reason and the fix.
        BootFailed: the system on the disk did not boot.
    """
    check_stated_files(manifest)
    disk = look(manifest.disk)
    folder = context.home.folder("prepared")
    checked = context.home.folder("checked")
    key_file, client = client_key(context.home.folder("keys"))
    digests = [known_digest(file, checked) for file in disk.files]
    _check_stated(manifest, disk, digests)
    key = _key(disk.format, digests, client, _preparation_inputs(manifest, checked))
    with FileLock(folder / f"{key}.lock"):
        target = folder / key / _MANIFEST
        image = read_if_complete(target)
        if image is None or not is_valid_layer(image.disk, digests, checked):
            with new_workspace(folder, key) as workspace:
                begin = monotonic()
                name = disk.path.name
                context.events.progress(
                    f"preparing {name}: this is done once, and takes about as long as one boot and shutdown of it"
                )
                content = _Preparation(disk, manifest, context, workspace).run(key_file, client)
                _publish(workspace, folder / key, content)
                context.events.progress(f"prepared {name} in {monotonic() - begin:.0f} s")
            image = read_manifest(target)
    # Nothing of these changes what a preparation does.
    stated = {key: manifest.values[key] for key in ("key", "cpus", "memory", "cpu") if key in manifest.values}
    made = {**image.made, **manifest.values.get("made", {})}
    return replace(image, name=manifest.name, made=made, **stated)


def _check_stated(manifest: Manifest, disk: DiskFile, digests: Sequence[str]) -> None:
    """Raise an error if the disk is not the one that *manifest* states."""
    stated = manifest.values.get("format", disk.format)
    if stated != disk.format:
        raise ConfigurationError(
            f"{manifest.path}: format: {disk.path} is {disk.format}, but the manifest states {stated}\n"
            f"  leave `format:` out, or name another disk"
        )
    digest = manifest.values.get("sha256", digests[0])
    if digest != digests[0]:
        raise ImageError(
            f"{disk.path} was altered: its SHA-256 is {digests[0]}, but {manifest.path} states {digest}\n"
            f"  repair the file, or correct {manifest.path}"
        )


def _preparation_inputs(manifest: Manifest, checked: Path) -> dict[str, Any]:
    """What the manifest states that changes what a preparation does."""
    values = manifest.values
    inputs = {key: values[key] for key in ("user", "cmdline", "host_keys") if key in values}
    inputs |= {key: known_digest(values[key], checked) for key in ("kernel", "initrd") if key in values}
    return inputs | {"own_login": _own_user(manifest)}


def _own_user(manifest: Manifest) -> str | None:
    """The user who logs in by a key of its own; None for root, who gets the plugin's key."""
    user: str | None = manifest.values.get("user")
    if "key" in manifest.values:
        return user or "root"
    if user not in (None, "root"):
        raise ConfigurationError(
            f"{manifest.path}: user: {user} needs a key to log in with\n"
            "  state the path of the private key as `key:`, or leave `user:` out: then the plugin logs in as root"
        )
    return None


def _key(disk_format: str, digests: Sequence[str], client: KeyPair, inputs: Mapping[str, Any]) -> str:
    text = json.dumps([_FORMAT, disk_format, digests, client.public, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


class _Preparation:
    """One preparation, in a folder of its own."""

    def __init__(self, disk: DiskFile, manifest: Manifest, context: RunContext, workspace: Path) -> None:
        self._disk = disk
        self._manifest = manifest
        self._stated = manifest.values
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
        content = self._change(client)
        own_key = self._stated.get("key")
        content["key"] = os.path.relpath(key_file, self._workspace) if own_key is None else str(own_key)
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
            boot = self._choose_boot_files(facts)
            login = plan_login(
                facts, client, user=_own_user(self._manifest), host_keys=self._stated.get("host_keys", ())
            )
            helper.write([*login.files, *plan_network(facts)])
            copies = {}
            if "kernel" not in self._stated:
                copies[boot.kernel] = self._workspace / _KERNEL
            if boot.initrd is not None and "initrd" not in self._stated:
                copies[boot.initrd] = self._workspace / _INITRD
            helper.close(copies)
        kernel = self._stated.get("kernel", _KERNEL)
        initrd = self._stated.get("initrd", _INITRD if boot.initrd is not None else None)
        return {
            "name": self._manifest.name,
            "arch": facts.architecture,
            "disk": self._layer.path.name,
            "format": self._layer.format,
            "kernel": str(kernel),
            **({} if initrd is None else {"initrd": str(initrd)}),
            "cmdline": boot.cmdline,
            "user": login.user,
            "host_keys": list(login.host_keys),
            "memory": self._stated.get("memory", _MEMORY),
            **{key: self._stated[key] for key in ("cpus", "cpu") if key in self._stated},
            "made": {
                "from": str(self._disk.path),
                "system": facts.system,
                "kernel": f"/{boot.kernel} ({boot.source})",
                "on": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }

    def _choose_boot_files(self, facts: Facts) -> BootFiles:
        """The files of a direct boot: what the manifest states, and what was found on the disk."""
        stated = self._stated
        if "kernel" in stated:
            path = str(stated["kernel"]).lstrip("/")
            boot = BootFiles(path, None, "", f"stated in {self._manifest.path}")
        else:
            boot = choose_kernel(facts)
        return replace(
            boot,
            initrd=str(stated["initrd"]).lstrip("/") if "initrd" in stated else boot.initrd,
            cmdline=stated["cmdline"] if "cmdline" in stated else choose_cmdline(facts),
        )

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
    # A file that the manifest states has an absolute path, and belongs to the user.
    own = [content[key] for key in ("disk", "kernel", "initrd") if not Path(content.get(key, "/")).is_absolute()]
    seal(*(workspace / name for name in own))
    write_manifest(workspace / _MANIFEST, content)
    shutil.rmtree(target, ignore_errors=True)
    workspace.rename(target)
