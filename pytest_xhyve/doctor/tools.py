"""Checks for tools that guests do not need, but some commands do."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_xhyve.doctor.findings import Check, Finding
from pytest_xhyve.doctor.programs import CommandRunner
from pytest_xhyve.images.build import TOOLS_PACKAGES, missing_tools


def checks(platform: str, programs: CommandRunner) -> list[Check]:
    """The checks of this module.

    Args:
        platform: the value of `sys.platform`.
        programs: runs the host's programs.
    """
    found = [Check("OpenSSH client", lambda: check_ssh(platform, programs))]
    if platform == "linux":
        # Images can be built only on Linux.
        found.append(Check("tools to build images", check_building))
    return found


def check_ssh(platform: str, programs: CommandRunner) -> Iterator[Finding]:
    """Check that OpenSSH's client is installed."""
    path = programs.find("ssh")
    if path is not None:
        yield Finding("OpenSSH client", "ok", path)
        return
    detail = "ssh not found in PATH; pytest-xhyve run and shell need it, and so do you to log in to a guest"
    fix = 'export PATH="$PATH:/usr/bin"' if platform == "darwin" else "sudo apt install openssh-client"
    yield Finding("OpenSSH client", "warning", detail, fix)


def check_building() -> Iterator[Finding]:
    """Check that the tools for building images are installed."""
    missing = missing_tools()
    if missing:
        detail = f"{', '.join(missing)} not found; this host can use images of the catalog, but not build them"
        yield Finding("tools to build images", "warning", detail, f"sudo apt install {TOOLS_PACKAGES}")
    else:
        yield Finding("tools to build images", "ok", "all found")
