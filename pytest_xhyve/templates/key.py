"""The key of a template: a digest of everything that the saved state depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from pytest_xhyve.host.digests import known_digest
from pytest_xhyve.hypervisors.base import Snapshotter
from pytest_xhyve.images.backing import backing_files
from pytest_xhyve.model.errors import ImageError, TemplateError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import DiskSizes, Machine

FORMAT = 13
"""Incremented when a new version of the plugin builds or restores templates differently."""

_NAME = "template"
_DIGITS = 16


def identity_parameters(name: str, uuid: UUID) -> list[str]:
    """The kernel parameters by which systemd sets a guest's host name and machine id (kernel-command-line(7))."""
    return [f"systemd.hostname={name}", f"systemd.machine_id={uuid.hex}"]


def as_template(machine: Machine, uuid: UUID) -> Machine:
    """*machine* with a template's name, the UUID *uuid*, and an Ethernet address that depends on it."""
    own = identity_parameters(machine.name, machine.uuid)
    others = [parameter for parameter in machine.cmdline.split(" ") if parameter not in own]
    return replace(
        machine,
        name=_NAME,
        uuid=uuid,
        cmdline=" ".join([*others, *identity_parameters(_NAME, uuid)]),
        nics=tuple(replace(nic, mac=_mac(uuid, 0)) for nic in machine.nics),
        lan_macs=tuple(_mac(uuid, number) for number, _ in enumerate(machine.lan_macs, 1)),
    )


def _mac(uuid: UUID, card: int) -> str:
    """A locally administered address (RFC 7042, section 2.1) that depends on the UUID and the number of the card."""
    return f"{4 * card + 2:02x}:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[-5:])


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """What a template is found by.

    All of it depends on the content of files and not on their places or times, so that a template which was made in
    another cache folder, or on another host, is found here.

    Attributes:
        machine: a digest of the machine and of the image that was saved.
        host: what the saved state depends on beside them: see `Snapshotter.depends_on`.
    """

    machine: str
    host: Mapping[str, str]

    def __str__(self) -> str:
        """The name of the template."""
        return _digest([self.machine, dict(self.host)])


def template_key(
    image: Image, machine: Machine, sizes: DiskSizes, snapshotter: Snapshotter, checked: Path
) -> TemplateKey:
    """The key of the template from which *machine* may be restored.

    Args:
        image: the image that the machine's disk is cloned from.
        machine: the machine; the key does not depend on its identity.
        sizes: the sizes of its disks.
        snapshotter: the snapshotter of its hypervisor.
        checked: the folder of cached digests.

    Raises:
        TemplateError: the disk depends on a file whose changes the plugin cannot detect.
    """
    try:
        backing = backing_files(image.disk, image.format)
    except ImageError as error:
        raise TemplateError(str(error)) from error
    plain = as_template(machine, UUID(int=0))
    depends: dict[str, object] = {
        "format": FORMAT,
        "disk": [image.format, known_digest(image.disk, checked)],
        "backing": [known_digest(path, checked) for path in backing],
        "firmware": machine.firmware,
        "kernel": None if machine.kernel is None else known_digest(machine.kernel, checked),
        "initrd": None if machine.initrd is None else known_digest(machine.initrd, checked),
        "login": [image.user, *image.host_keys],
        "cmdline": plain.cmdline,
        "cpus": machine.cpus,
        "cpu": machine.cpu,
        "memory": machine.memory,
        "disks": [sizes.root, *sizes.empty],
        "nics": len(machine.nics),
        "lan_cards": len(machine.lan_macs),
        "graphics": machine.graphics,
    }
    if sizes.empty:
        # Each of these disks has a port.
        depends["unplugged"] = sorted(machine.unplugged)
    networks: list[str] = [nic.network for nic in machine.nics]
    if set(networks) != {"nat"}:
        # The guest has an address and a route from its network's DHCP server.
        depends["networks"] = networks
    return TemplateKey(_digest(depends), snapshotter.depends_on(machine))


def _digest(content: Any) -> str:
    """A digest of *content*, plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]
