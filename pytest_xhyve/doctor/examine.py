"""All that there is to look at on one host, and what follows from it."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_xhyve.doctor import host, mac, tools
from pytest_xhyve.doctor.findings import Finding, gather
from pytest_xhyve.doctor.programs import CommandRunner
from pytest_xhyve.host.home import Home


@dataclass(frozen=True, slots=True)
class Report:
    """What was found on a host.

    Attributes:
        findings: the worst first.
        runs_under: the hypervisors that nothing was found to keep from running guests.
    """

    findings: tuple[Finding, ...]
    runs_under: tuple[str, ...]

    def lines(self, width: int = 0) -> Iterator[str]:
        """The report for people, its sentences broken at *width* characters unless that is 0."""
        for finding in self.findings:
            yield from finding.lines(width)
        yield ""
        under = " and ".join(self.runs_under)
        yield f"guests can run here, under {under}" if under else "no guest can run here"

    def as_json(self) -> str:
        """The report for a program."""
        findings = [{**asdict(finding), "stops": sorted(finding.stops)} for finding in self.findings]
        return json.dumps({"runs_under": self.runs_under, "findings": findings}, indent=2)


def examine(*, platform: str, home: Home | None, programs: CommandRunner) -> Report:
    """Look at everything; what is wrong is in the report, and nothing is changed.

    Args:
        platform: as `sys.platform` has it.
        home: the plugin's folder, which need not be there; None where nobody knows where it would be.
        programs: runs the host's programs.
    """
    hypervisors = ["qemu"]
    checks = host.checks(home, platform) + tools.checks(platform, programs)
    if platform == "darwin":
        hypervisors.append("xhyve")
        folder = host.nearest_folder(Path("/") if home is None else home.path)
        checks += mac.checks(mac.Mac(programs=programs, folder=folder, euid=os.geteuid(), user=_user()))
    findings = gather(checks)
    stopped = frozenset[str]().union(*(finding.stops for finding in findings))
    return Report(findings, tuple(name for name in hypervisors if name not in stopped))


def _user() -> str:
    """Who we are, as sudoers(5) has it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"#{os.getuid()}"
