"""Collect the diagnostics of a guest: how it was made, and what its console shows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_xhyve.guest.screen import take as take_screenshot
from pytest_xhyve.hypervisors.base import HypervisorInfo
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.evidence import Evidence
from pytest_xhyve.model.image import Image
from pytest_xhyve.model.machine import Machine
from pytest_xhyve.model.values import format_size

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

# The last ones are enough.
_FAULTS = 20


def collect_evidence(guest: Guest, start: int = 0, max_bytes: int | None = None) -> Evidence:
    """The diagnostics of *guest* at this moment.

    Args:
        guest: the guest, which may be off.
        start: the first byte of the console's output to include.
        max_bytes: include only the last so many bytes of it; None for all.
    """
    try:
        where = f"SSH at {guest.host}:{guest.port}"
    except XhyveError:
        where = "off"
    console = recent = ""
    screen = b""
    with contextlib.suppress(XhyveError):
        log = guest.console
        begin = start if max_bytes is None else max(start, log.size - max_bytes)
        console = log.text_from(begin)
        recent = log.text_from(max(begin, log.begin))
    if guest.machine.graphics:
        # The guest may be off, or its hypervisor may have exited.
        with contextlib.suppress(XhyveError, OSError):
            screen = take_screenshot(guest.name, guest.machine, guest._own_power.machine)
    made = _describe_start(guest.image, guest.machine, guest.hypervisor, guest.phases)
    if guest.crash_state is not None:
        made = (*made, str(guest.crash_state))
    made = (*made, *guest._faults.lines[-_FAULTS:])
    return Evidence(guest.name, (*made, where), console, recent, screen)


def _describe_start(
    image: Image, machine: Machine, info: HypervisorInfo, phases: Mapping[str, float]
) -> tuple[str, ...]:
    result = "did not boot"
    if "login" in phases:
        result = "restored from a template" if "restore" in phases else "booted"
        steps = " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items())
        result += f", ready after {sum(phases.values()):.2f} s: {steps}"
    return (
        f"image {image.name} ({image.manifest})",
        f"{info.name} {info.version}, {info.acceleration}, {machine.cpus} CPU{'s' if machine.cpus > 1 else ''} of "
        f"{image.arch}, {format_size(machine.memory)}; {result}",
        f"UUID {machine.uuid}, Ethernet address {machine.nics[0].mac or 'not known'}",
    )
