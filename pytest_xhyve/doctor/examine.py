"""Run all checks on a host, and report the result."""

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
    """The result of all checks.

    Attributes:
        findings: all findings, the worst first.
        runs_under: the hypervisors that no finding blocks.
    """

    findings: tuple[Finding, ...]
    runs_under: tuple[str, ...]

    def lines(self, width: int = 0) -> Iterator[str]:
        """The report for people; lines are wrapped at *width* characters, unless that is 0."""
        for finding in self.findings:
            yield from finding.lines(width)
        yield ""
        names = " and ".join(self.runs_under)
        yield f"guests can run here, under {names}" if names else "guests cannot run here"

    def as_json(self) -> str:
        """The report as JSON, for programs."""
        findings = [{**asdict(finding), "blocks": sorted(finding.blocks)} for finding in self.findings]
        return json.dumps({"runs_under": self.runs_under, "findings": findings}, indent=2)


def examine(*, platform: str, home: Home | None, programs: CommandRunner) -> Report:
    """Run all checks. They change nothing; a problem becomes a finding.

    Args:
        platform: the value of `sys.platform`.
        home: the cache folder, which may be missing; None if its path is unknown.
        programs: runs the host's programs.
    """
    hypervisors = ["qemu"]
    checks = host.checks(home, platform) + tools.checks(platform, programs)
    if platform == "darwin":
        hypervisors = ["vfkit", "xhyve", "qemu"]
        folder = host.nearest_folder(Path("/") if home is None else home.path)
        checks += mac.checks(mac.Mac(programs=programs, folder=folder, euid=os.geteuid(), user=_user()))
    findings = gather(checks)
    blocked = frozenset[str]().union(*(finding.blocks for finding in findings))
    return Report(findings, tuple(name for name in hypervisors if name not in blocked))


def _user() -> str:
    """The current user, as sudoers(5) names it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"#{os.getuid()}"
