"""What a template depends on: a key that differs whenever one could not be restored from the other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from pytest_xhyve.hypervisors.base import Snapshotter
from pytest_xhyve.images.check import known_digest
from pytest_xhyve.model.errors import TemplateError
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine, Nic

FORMAT = 6
"""Counts what we ourselves changed in how a template is made or restored."""

NAME = "template"
_DIGITS = 16


def identity_words(name: str, uuid: UUID) -> list[str]:
    """The words of a kernel's command line that are a guest's own; read by systemd (kernel-command-line(7))."""
    return [f"systemd.hostname={name}", f"systemd.machine_id={uuid.hex}"]


def as_template(machine: Machine, uuid: UUID) -> Machine:
    """*machine* with a template's identity in the place of its own."""
    own = identity_words(machine.name, machine.uuid)
    words = [word for word in machine.cmdline.split(" ") if word not in own]
    return replace(
        machine,
        name=NAME,
        uuid=uuid,
        cmdline=" ".join([*words, *identity_words(NAME, uuid)]),
        nics=tuple(Nic(_mac(uuid), nic.forward) for nic in machine.nics),
    )


def _has_backing_file(disk: Path) -> bool:
    """Whether a qcow2 disk reads from another one (docs/interop/qcow2.txt in QEMU's sources: bytes 8 to 15)."""
    with disk.open("rb") as file:
        header = file.read(16)
    return header.startswith(b"QFI\xfb") and header[8:16] != bytes(8)


def _mac(uuid: UUID) -> str:
    """A locally administered address (RFC 7042, section 2.1), found again wherever it stands in a saved state."""
    return "02:" + ":".join(f"{byte:02x}" for byte in uuid.bytes[-5:])


def template_key(image: Image, machine: Machine, snapshotter: Snapshotter, checked: Path) -> str:
    """The key of the template from which *machine* may be restored.

    Args:
        image: what its disk is cloned from.
        machine: with an identity of its own, which is no part of the key.
        snapshotter: its hypervisor's.
        checked: the folder of remembered digests.

    Raises:
        TemplateError: not all that it depends on can be told.
    """
    if image.format == "qcow2" and _has_backing_file(image.disk):
        raise TemplateError(f"{image.disk} has a backing file, of which nobody tells when it changes")
    plain = as_template(machine, UUID(int=0))
    depends = {
        "format": FORMAT,
        # The template's disk holds what differs from the image's, which it finds by its path.
        "disk": [str(image.disk.resolve()), image.format, known_digest(image.disk, checked)],
        "kernel": known_digest(machine.kernel, checked),
        "initrd": None if machine.initrd is None else known_digest(machine.initrd, checked),
        "login": [image.user, *image.host_keys],
        "cmdline": plain.cmdline,
        "cpus": machine.cpus,
        "cpu": machine.cpu,
        "memory": machine.memory,
        "nics": len(machine.nics),
        **snapshotter.depends_on(machine),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:_DIGITS]
