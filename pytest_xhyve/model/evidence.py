"""Diagnostics of one guest, for a report."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_xhyve.model.text import printable

_SECTION_LINES = 40


@dataclass(frozen=True, slots=True)
class Evidence:
    """Diagnostics of a guest at one moment.

    Attributes:
        name: the guest's name.
        made: how the guest was made, as lines.
        console: all output of the serial port, as text.
        recent: the part of it that followed the restore; all of it if the guest booted.
        screen: the contents of the screen, as a PNG file; empty if the guest has no graphics card.
    """

    name: str
    made: tuple[str, ...]
    console: str
    recent: str
    screen: bytes = b""

    def section(self, screen: str = "") -> str:
        """The text for a report: how the guest was made, and the last lines of its console.

        Args:
            screen: where the picture of the screen is; empty to leave it out.
        """
        lines = self.recent.rstrip().splitlines()
        since = "" if self.recent == self.console else " since it was restored"
        cut = f", its last {_SECTION_LINES} lines" if len(lines) > _SECTION_LINES else ""
        head = f"console{since}{cut}:"
        shown = [f"  {line}" for line in lines[-_SECTION_LINES:]] or ["  (nothing)"]
        made = [*self.made, f"screen: {screen}"] if screen else self.made
        return printable("\n".join([*made, head, *shown]) + "\n")
