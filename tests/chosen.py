"""The hypervisor that a test runs under."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_xhyve.model.settings import Settings
from pytest_xhyve.model.values import HypervisorName, RunStartMode


@dataclass(frozen=True)
class Chosen:
    """The hypervisor of a test.

    Attributes:
        name: as ``--xhyve-hypervisor`` has it.
        executable: its program, or None for the one in PATH.
        start: how its guests start, as ``--xhyve-start`` has it.
    """

    name: HypervisorName
    executable: Path | None = None
    start: RunStartMode = "cold"

    def settings(self, base: Settings = Settings()) -> Settings:  # noqa: B008  # it is frozen
        """*base*, with this hypervisor."""
        executable = None if self.executable is None else str(self.executable)
        return base._replace(hypervisor=self.name, executable=executable, start=self.start)

    @property
    def options(self) -> list[str]:
        """The options by which a run of its own gets it."""
        given = [f"--xhyve-hypervisor={self.name}", f"--xhyve-start={self.start}"]
        return given if self.executable is None else [*given, f"--xhyve-executable={self.executable}"]
