"""What is known of a guest, for whoever has to find out why something went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_xhyve.host.sizes import shown_size
from pytest_xhyve.hypervisors.base import Facts
from pytest_xhyve.images.manifest import Image
from pytest_xhyve.model.errors import XhyveError
from pytest_xhyve.model.machine import Machine

if TYPE_CHECKING:
    from pytest_xhyve.guest.guest import Guest

_SECTION_LINES = 40


@dataclass(frozen=True, slots=True)
class Evidence:
    """A guest at one moment.

    Attributes:
        name: the guest's.
        made: how it was made, a line each.
        console: all that its serial port has said, as text.
        recent: what of it came since it was restored; all, where it booted.
    """

    name: str
    made: tuple[str, ...]
    console: str
    recent: str

    @classmethod
    def of(cls, guest: Guest, start: int = 0, most: int | None = None) -> Evidence:
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
        return cls(guest.name, (*made, where), console, recent)

    def section(self) -> str:
        """The text for a report: how the guest was made, and its console's last lines."""
        lines = self.recent.rstrip().splitlines()
        since = "" if self.recent == self.console else " since it was restored"
        cut = f", its last {_SECTION_LINES} lines" if len(lines) > _SECTION_LINES else ""
        head = f"console{since}{cut}:"
        shown = [f"  {line}" for line in lines[-_SECTION_LINES:]] or ["  (nothing)"]
        return "\n".join([*self.made, head, *shown]) + "\n"


def _how(image: Image, machine: Machine, facts: Facts, phases: Mapping[str, float]) -> tuple[str, ...]:
    way = "did not come up"
    if "login" in phases:
        way = "restored from a template" if "restore" in phases else "booted"
        steps = " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items())
        way += f", ready after {sum(phases.values()):.2f} s: {steps}"
    return (
        f"image {image.name} ({image.manifest})",
        f"{facts.name} {facts.version}, {facts.acceleration}, {machine.cpus} CPU{'s' if machine.cpus > 1 else ''}, "
        f"{shown_size(machine.memory)}; {way}",
        f"UUID {machine.uuid}, Ethernet address {machine.nics[0].mac or 'not known'}",
    )
