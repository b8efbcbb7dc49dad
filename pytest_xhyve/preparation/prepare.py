"""Prepare a user's disk: once for each content of the disk, kept as a layer over the untouched file.

The layer holds what the plugin changed, and what the first boot wrote: the disk itself is only read. A preparation
that fails or is interrupted leaves nothing that is ever taken for an image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_xhyve.formats.kernel import explain_other_kernel
from pytest_xhyve.guest.guest import Guest
from pytest_xhyve.guest.waits import wait_for_units
from pytest_xhyve.host.clone import create_overlay
from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.host.layer_file import relative_to_cache
from pytest_xhyve.host.locks import locked
from pytest_xhyve.images.backing import is_valid_layer
from pytest_xhyve.images.files import check_stated_files, read_if_complete
from pytest_xhyve.images.keys import KeyPair, client_key
from pytest_xhyve.images.manifest import Manifest, read_manifest
from pytest_xhyve.images.publishing import new_workspace, seal, write_manifest
from pytest_xhyve.model.architecture import architecture_of
from pytest_xhyve.model.clock import monotonic
from pytest_xhyve.model.errors import BootFailed, ConfigurationError, ConnectionFailed, ImageError, NotSupported
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Disk
from pytest_xhyve.model.options import PASSWORD_VARIABLE
from pytest_xhyve.model.text import printable
from pytest_xhyve.model.values import Firmware
from pytest_xhyve.preparation.disk_file import DiskFile, check_unused_and_whole, copy_as_qcow2
from pytest_xhyve.preparation.facts import Facts
from pytest_xhyve.preparation.helper_guest import HelperGuest, open_disk
from pytest_xhyve.preparation.kernel import BootFiles, choose_cmdline, choose_kernel
from pytest_xhyve.preparation.likely_causes import likely_causes
from pytest_xhyve.preparation.login import Login, StatedLogin, plan_login
from pytest_xhyve.preparation.network import plan_network
from pytest_xhyve.preparation.prepared import (
    FOLDER,
    MANIFEST,
    describe_duration,
    describe_state,
    preparation_key,
    record_duration,
    stated_seed,
)
from pytest_xhyve.preparation.run_context import RunContext
from pytest_xhyve.preparation.seed import seed_host_keys
from pytest_xhyve.preparation.system import check_system, naming_disk
from pytest_xhyve.preparation.unpack import look_inside

_MEMORY = "1G"
_FIRST_BOOT_CPUS = 2
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
    disk = look_inside(manifest.disk, context.home, context.events.progress)
    folder = context.home.folder(FOLDER)
    checked = context.home.folder("checked")
    key_file, client = client_key(context.home.folder("keys"))
    digests = [known_digest(file, checked) for file in disk.files]
    _check_stated(manifest, disk, known_digest(manifest.disk, checked))
    key = preparation_key(manifest, disk.format, digests, key_file, lambda path: known_digest(path, checked))
    with locked(folder / f"{key}.lock", f"prepares {manifest.disk.name}", report=context.events.progress):
        target = folder / key / MANIFEST
        image = read_if_complete(target)
        if image is None or not is_valid_layer(image.disk, digests, checked):
            with new_workspace(folder, key) as workspace:
                begin = monotonic()
                name = manifest.disk.name
                context.events.progress(f"preparing {name}: this is done once, and {describe_duration(context.home)}")
                with naming_disk(manifest.disk):
                    content = _Preparation(disk, manifest, context, workspace).run(key_file, client)
                _publish(workspace, folder / key, content)
                seconds = monotonic() - begin
                record_duration(context.home, seconds)
                context.events.progress(f"prepared {name} in {seconds:.0f} s{describe_state(content['made']['state'])}")
            image = read_manifest(target)
    # Nothing of these changes what a preparation does.
    free = ("key", "password", "cpus", "memory", "cpu", "firmware", "distro", "version", "init")
    stated = {key: manifest.values[key] for key in free if key in manifest.values}
    made = {**image.made, **manifest.values.get("made", {})}
    return replace(image, name=manifest.name, made=made, **stated)


def _describe_system(facts: Facts) -> dict[str, str]:
    """The manifest's keys that state which system this is; it is not trusted to name it on one line."""
    release = facts.os_release
    found = {
        "distro": release.get("ID", ""),
        "version": release.get("VERSION_ID", ""),
        "init": "systemd" if facts.has_systemd else "",
    }
    return {key: text for key, value in found.items() if (text := printable(value).strip())}


def _check_stated(manifest: Manifest, disk: DiskFile, digest: str) -> None:
    """Raise an error if the disk is not the one that *manifest* states."""
    stated = manifest.values.get("format", disk.format)
    if stated != disk.format:
        raise ConfigurationError(
            f"{manifest.path}: format: {manifest.disk} is {disk.format}, but the manifest states {stated}\n"
            f"  leave `format:` out, or name another disk"
        )
    expected = manifest.values.get("sha256", digest)
    if expected != digest:
        raise ImageError(
            f"{manifest.disk} was altered: its SHA-256 is {digest}, but {manifest.path} states {expected}\n"
            f"  repair the file, or correct {manifest.path}"
        )


class _Preparation:
    """One preparation, in a folder of its own."""

    def __init__(self, disk: DiskFile, manifest: Manifest, context: RunContext, workspace: Path) -> None:
        self._disk = disk
        self._seed = stated_seed(manifest)
        self._manifest = manifest
        self._stated = manifest.values
        self._context = context
        self._workspace = workspace
        self._layer = Disk(workspace / "layer.qcow2", "qcow2")
        self._likely_causes: tuple[str, ...] = ()

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
            # A disk that was pulled or unpacked is in the cache folder, which may be moved.
            name = relative_to_cache(self._disk.path, self._workspace)
            create_overlay(self._disk.path, self._disk.format, self._layer.path, name=name)
        else:
            context.events.progress(f"  copying it, as {self._disk.format} disks cannot be restored")
            copy_as_qcow2(self._disk, self._layer.path)
        context.events.progress("  looking into it")
        content = self._change(client)
        if "key" in self._stated:
            content["key"] = str(self._stated["key"])
        elif self._manifest.own_user is None:
            content["key"] = os.path.relpath(key_file, self._workspace)
        else:
            # The password is in no file.
            content["password"] = None
        write_manifest(self._workspace / MANIFEST, content)
        image = replace(read_manifest(self._workspace / MANIFEST), password=self._stated.get("password"))
        problem = None if image.kernel is None else explain_other_kernel(image.kernel, architecture_of(image.arch))
        if problem is not None:
            raise ImageError(f"the kernel on {self._manifest.disk} {problem}")
        context.events.progress(f"  booting {content['made']['system']}")
        with self._explaining_failure():
            content["made"]["state"] = self._boot_once(image)
        return content

    def _change(self, client: KeyPair) -> dict[str, Any]:
        """Write what the plugin needs into the layer, and copy the kernel out; return what the manifest states."""
        with open_disk(self._context, self._layer, self._workspace) as helper:
            facts = helper.look()
            for volume in facts.dirty:
                self._context.events.progress(
                    f"  the file system of {volume} was not unmounted cleanly; its journal is replayed in the layer"
                )
            check_system(facts, self._manifest.disk)
            boot = self._choose_boot_files(facts, helper)
            self._likely_causes = likely_causes(facts, self._stated)
            login = self._plan_login(facts, client)
            network = plan_network(facts, self._seed)
            helper.write([*login.files, *network], facts.selinux_policy)
            copies = {}
            if isinstance(boot, BootFiles) and "kernel" not in self._stated:
                copies[boot.kernel] = self._workspace / _KERNEL
            if isinstance(boot, BootFiles) and boot.initrd is not None and "initrd" not in self._stated:
                copies[boot.initrd] = self._workspace / _INITRD
            helper.close(copies)
        return {
            "name": self._manifest.name,
            "arch": facts.architecture,
            **_describe_system(facts),
            "disk": self._layer.path.name,
            "format": self._layer.format,
            **self._describe_boot(boot),
            "user": login.user,
            "host_keys": list(login.host_keys),
            "memory": self._stated.get("memory", _MEMORY),
            **{key: self._stated[key] for key in ("cpus", "cpu") if key in self._stated},
            "made": {
                "from": str(self._manifest.disk),
                "system": facts.system,
                "kernel": f"/{boot.kernel} ({boot.source})" if isinstance(boot, BootFiles) else "not found",
                "on": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        }

    def _describe_boot(self, boot: BootFiles | Firmware) -> dict[str, str]:
        """The manifest's keys that state how guests boot."""
        if not isinstance(boot, BootFiles):
            return {"firmware": boot}
        kernel = self._stated.get("kernel", _KERNEL)
        initrd = self._stated.get("initrd", _INITRD if boot.initrd is not None else None)
        files = {"kernel": str(kernel)} if initrd is None else {"kernel": str(kernel), "initrd": str(initrd)}
        return files | {"cmdline": boot.cmdline}

    def _choose_boot_files(self, facts: Facts, helper: HelperGuest) -> BootFiles | Firmware:
        """The files of a direct boot: what the manifest states, and what was found on the disk.

        If the disk has no kernel in a place that is known, the result is the firmware that starts its boot loader.
        """
        stated = self._stated
        if "kernel" in stated:
            path = str(stated["kernel"]).lstrip("/")
            boot = BootFiles(path, None, "", f"stated in {self._manifest.path}")
        else:
            try:
                boot = choose_kernel(facts)
            except ImageError:
                firmware: Firmware | None = stated.get("firmware") or helper.find_firmware()
                if firmware is None:
                    raise
                self._context.events.progress(f"  no kernel found on it: it boots by its boot loader ({firmware})")
                return firmware
        return replace(
            boot,
            initrd=str(stated["initrd"]).lstrip("/") if "initrd" in stated else boot.initrd,
            cmdline=stated["cmdline"] if "cmdline" in stated else choose_cmdline(facts),
        )

    def _plan_login(self, facts: Facts, client: KeyPair) -> Login:
        """The login and the host keys: what is stated, and what was found on the disk."""
        login = plan_login(facts, client, StatedLogin.of(self._manifest))
        if self._seed is None:
            return login
        if not facts.has_cloud_init:
            raise ImageError(
                f"{facts.system} on this disk has no cloud-init, which --xhyve-seed is for\n  leave the option out"
            )
        own = seed_host_keys(self._seed)
        types = {key.partition(" ")[0] for key in own}
        # cloud-init replaces the keys of these types.
        kept = [key for key in login.host_keys if key.partition(" ")[0] not in types]
        return replace(login, host_keys=(*own, *kept))

    def _boot_once(self, image: Image) -> str:
        """Boot the layer, wait until the system is at rest, and shut it down; return the state of the system."""
        # The first boot does what later ones do not: cloud-init alone keeps one CPU busy until long after the login.
        cpus = max(image.cpus, min(os.cpu_count() or 1, _FIRST_BOOT_CPUS))
        with self._context.booted(image.name, image, self._layer, cpus=cpus) as guest:
            self._check_root(guest)
            state = str(wait_for_units(guest.run, self._context.timeouts.settle))
            self._context.events.progress("  shutting it down")
            guest.shutdown()
        return state

    @contextmanager
    def _explaining_failure(self) -> Iterator[None]:
        """Add to an error of the first boot which disk it is about, and what on the disk may be the cause."""
        begin = f"cannot prepare {self._manifest.disk}: "
        try:
            yield
        except BootFailed as error:
            error.message = f"{begin}{error.message}"
            error.hints = [*self._likely_causes, *error.hints]
            raise
        except ConnectionFailed as error:
            causes = "".join(f"\n  on this disk: {cause}" for cause in self._likely_causes)
            error.args = (f"{begin}{error}{causes}",)
            raise

    def _check_root(self, guest: Guest) -> None:
        """Check that the user can run commands as root; this is also the one time that sudo gives its lecture."""
        done = guest.run("true", check=False, user="root", timeout=self._context.timeouts.boot)
        if done.returncode != 0:
            reason = (printable(done.stderr).strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ImageError(
                f"user {guest.image.user} of {self._manifest.disk} cannot run commands as root: {reason}\n"
                "  the plugin needs that to shut guests down and to restore them: let the user run sudo on the disk, "
                f"set {PASSWORD_VARIABLE} if sudo asks for a password, or log in as root"
            )


def _publish(workspace: Path, target: Path, content: dict[str, Any]) -> None:
    """Publish *workspace* as the image: it gets its name in one step."""
    disk = workspace / content["disk"]
    content["size"] = disk.stat().st_size
    # A file that the manifest states has an absolute path, and belongs to the user.
    own = [content[key] for key in ("disk", "kernel", "initrd") if not Path(content.get(key, "/")).is_absolute()]
    seal(*(workspace / name for name in own))
    write_manifest(workspace / MANIFEST, content)
    shutil.rmtree(target, ignore_errors=True)
    workspace.rename(target)
