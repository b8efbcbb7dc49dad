"""What is known of a guest, for whoever has to find out why something went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.values import format_size

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest


def collect_evidence(guest: Guest, start: int = 0, most: int | None = None) -> Evidence:
    """What is known of *guest* now; of its console the last *most* bytes of what came from byte *start* on."""
    try:
        where = f"SSH at {guest.host}:{guest.port}"
    except XhyveError:
        where = "off"
    console = recent = ""
    with contextlib.suppress(XhyveError):
        log = guest.console
        begin = start if most is None else max(start, log.size - most)
        console = log.text_from(begin)
        recent = log.text_from(max(begin, log.begin))
    made = _how(guest.image, guest.machine, guest.hypervisor, guest.phases)
    return Evidence(guest.name, (*made, where), console, recent)


def _how(image: Image, machine: Machine, info: HypervisorInfo, phases: Mapping[str, float]) -> tuple[str, ...]:
    way = "did not come up"
    if "login" in phases:
        way = "restored from a template" if "restore" in phases else "booted"
        steps = " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items())
        way += f", ready after {sum(phases.values()):.2f} s: {steps}"
    return (
        f"image {image.name} ({image.manifest})",
        f"{info.name} {info.version}, {info.acceleration}, {machine.cpus} CPU{'s' if machine.cpus > 1 else ''}, "
        f"{format_size(machine.memory)}; {way}",
        f"UUID {machine.uuid}, Ethernet address {machine.nics[0].mac or 'not known'}",
    )
