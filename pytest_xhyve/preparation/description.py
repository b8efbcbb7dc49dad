"""What is known of a disk or an image, as data for JSON and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_xhyve.images.keys import KeyPair
from pytest_xhyve.images.manifest import Manifest, image_name
from pytest_xhyve.model.errors import ImageError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.text import printable
from pytest_xhyve.preparation.disk_file import DiskFile
from pytest_xhyve.preparation.facts import Facts, describe_device
from pytest_xhyve.preparation.kernel import choose_kernel
from pytest_xhyve.preparation.likely_causes import likely_causes
from pytest_xhyve.preparation.login import plan_login, sshd_settings
from pytest_xhyve.preparation.network import configured_names
from pytest_xhyve.preparation.system import check_system

_NETWORK = (
    "etc/network/",
    "etc/netplan/",
    "etc/systemd/network/",
    "etc/NetworkManager/",
    "etc/sysconfig/network-scripts/",
)


def describe_disk(path: Path, disk: DiskFile, facts: Facts, client: KeyPair) -> dict[str, Any]:
    """What was found on a disk; a value is None or empty if it was not found.

    Args:
        path: the path that the user gave.
        disk: the disk's file; another one if the given one is compressed.
        facts: what the helper guest found.
        client: the plugin's key.
    """
    release = facts.os_release
    root = facts.roots[0] if len(facts.roots) == 1 else None
    found: dict[str, Any] = {
        "name": image_name(path),
        "disk": str(path),
        "format": disk.format,
        "backing": [str(path) for path in disk.backing],
        "examined_by": facts.examined_by,
        "arch": facts.architecture or None,
        "partition_table": facts.partition_table or None,
        "firmware": list(facts.firmware),
        "volumes": [
            {"name": describe_device(volume.device), "type": volume.type or None, "bytes": facts.size_of(volume)}
            for volume in facts.volumes
        ],
        "root": None
        if root is None
        else {"name": describe_device(root.device), "type": root.type, "subvolume": root.subvolume or None},
        "system": None
        if root is None
        else {"name": facts.system, "id": release.get("ID"), "version": release.get("VERSION_ID")},
        "kernel": None,
        "initrd": None,
        "cmdline": None,
        "kernel_from": None,
        "users": [
            {"name": user.name, "uid": user.uid, "password": user.password, "shell": user.shell} for user in facts.users
        ],
        "sudo": facts.has("usr/bin/sudo"),
        "ssh_server": facts.ssh_server or None,
        "ssh_settings": [
            {"path": f"/{path}", "line": line, "key": key, "value": value}
            for path, line, key, value in sshd_settings(facts)
        ],
        "host_keys": list(facts.host_keys),
        "network": {
            "cards": list(configured_names(facts)),
            "files": [f"/{path}" for path in sorted(facts.files) if path.startswith(_NETWORK)],
            "cloud_init": facts.has_cloud_init,
        },
        "problems": [*facts.problems, *likely_causes(facts)],
        "unusable": None,
    }
    try:
        check_system(facts, path)
        boot = choose_kernel(facts)
        found |= {
            "kernel": f"/{boot.kernel}",
            "initrd": f"/{boot.initrd}" if boot.initrd else None,
            "cmdline": boot.cmdline,
            "kernel_from": boot.source,
        }
        plan_login(facts, client)
    except ImageError as error:
        found["unusable"] = str(error)
    shown: dict[str, Any] = _printable(found)
    return shown


def describe_image(image: Image) -> dict[str, Any]:
    """What the manifest of *image* states."""
    made = dict(image.made)
    found = {
        "name": image.name,
        "manifest": str(image.manifest),
        "arch": image.arch,
        "distro": image.distro,
        "version": image.version,
        "init": image.init,
        "disk": str(image.disk),
        "format": image.format,
        "size": image.size,
        "sha256": image.sha256,
        "kernel": None if image.kernel is None else str(image.kernel),
        "initrd": None if image.initrd is None else str(image.initrd),
        "cmdline": image.cmdline,
        "user": image.user,
        "key": None if image.key is None else str(image.key),
        "host_keys": list(image.host_keys),
        "cpus": image.cpus,
        "memory": image.memory,
        "cpu": image.cpu,
        "extends": None if image.extends is None else image.extends.image,
        "made": {str(key): value if isinstance(value, int | float) else str(value) for key, value in made.items()},
    }
    shown: dict[str, Any] = _printable(found)
    return shown


def describe_stated(manifest: Manifest) -> dict[str, Any]:
    """What a *manifest* states, whose other keys are found out."""
    shown = {key: value for key, value in manifest.values.items() if key != "password"}
    values = {key: str(value) if isinstance(value, Path) else value for key, value in shown.items()}
    stated = {} if manifest.path is None else {"name": manifest.name, "manifest": str(manifest.path), **values}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}


def _printable(value: Any) -> Any:
    """*value* with all texts as `printable` returns them: a disk from elsewhere is not trusted."""
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return printable(value) if isinstance(value, str) else value
