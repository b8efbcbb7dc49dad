"""Checks for the tools that guests run without, and that one or the other command needs."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_xhyve.doctor.findings import Check, Finding
from pytest_xhyve.doctor.programs import CommandRunner
from pytest_xhyve.images.build import TOOLS_PACKAGES, missing_tools


def checks(platform: str, programs: CommandRunner) -> list[Check]:
    """The checks of this module.

    Args:
        platform: as `sys.platform` has it.
        programs: runs the host's programs.
    """
    found = [Check("OpenSSH client", lambda: check_ssh(platform, programs))]
    if platform == "linux":
        # Elsewhere none are built.
        found.append(Check("tools to build images", check_building))
    return found


def check_ssh(platform: str, programs: CommandRunner) -> Iterator[Finding]:
    """Whether OpenSSH's client is here."""
    path = programs.find("ssh")
    if path is not None:
        yield Finding("OpenSSH client", "ok", path)
        return
    seen = "there is no ssh in PATH; pytest-xhyve run and shell need it, and who logs into a guest by hand"
    cure = 'export PATH="$PATH:/usr/bin"' if platform == "darwin" else "sudo apt install openssh-client"
    yield Finding("OpenSSH client", "warning", seen, cure)


def check_building() -> Iterator[Finding]:
    """Whether what builds the images of the catalog is here."""
    missing = missing_tools()
    if missing:
        seen = f"{', '.join(missing)} not found; no image of the catalog can be built here, only used"
        yield Finding("tools to build images", "warning", seen, f"sudo apt install {TOOLS_PACKAGES}")
    else:
        yield Finding("tools to build images", "ok", "all are here")
